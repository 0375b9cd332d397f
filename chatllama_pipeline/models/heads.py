"""Models that talk and models that score, and the scorer that a reward model's folder becomes."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from transformers import (
    MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING,
    MODEL_MAPPING,
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    AutoModelForSequenceClassification,
    PreTrainedModel,
)
from transformers.dynamic_module_utils import get_class_from_dynamic_module

from chatllama_pipeline.errors import SettingsError
from chatllama_pipeline.models.adapters.lora import load_adapter
from chatllama_pipeline.models.chat.template import (
    Example,
    conversation,
    question_and_answer,
    whole_conversation,
)
from chatllama_pipeline.models.families.kinds import Kind, kind_of, plain, score_of
from chatllama_pipeline.models.families.language import (
    encoder_decoder_inputs,
    joined,
    row_inputs,
    tokens_first,
)
from chatllama_pipeline.models.families.manner import manner_of
from chatllama_pipeline.models.families.pairs import token_types
from chatllama_pipeline.models.families.switches import without_noise
from chatllama_pipeline.models.loading import (
    code_arguments,
    load_config,
    load_tokenizer,
    loading,
)
from chatllama_pipeline.models.memory.passes import batches, read_bytes, shape_of
from chatllama_pipeline.models.positions import longest_row
from chatllama_pipeline.models.sharding.loading import Sharing, load_shared
from chatllama_pipeline.models.sharding.parts import put, whole_shape
from chatllama_pipeline.progress import counted, phase
from chatllama_pipeline.records import Prompt
from chatllama_pipeline.store.model_files import base_folder, has_adapter

SCORE_SHIFT = "chatllama_score_shift"
SCORE_SCALE = "chatllama_score_scale"
MAX_LENGTH = "chatllama_max_length"
READS_WHOLE = "chatllama_reads_whole"

# What a reward model reads where neither its config nor its tokenizer has a limit (BLOOM).
LONGEST_ROW = 2048


def load_actor(
    folder: Path | str,
    dtype: torch.dtype | Literal["auto"],
    sharing: Sharing | None = None,
    **placing: Any,
) -> Any:
    """The language model in `folder`, every dropout off, in eval mode; "auto": as it was saved.

    Where it is an adapter, it stands in the model unmerged and frozen. With `sharing` each process
    loads its part of the weights, an adapter's excepted. `placing` are the arguments of
    `from_pretrained` that say where its layers go.
    """
    config = without_noise(load_config(folder))
    seq2seq = kind_of(config) is Kind.ENCODER_DECODER
    auto = AutoModelForSeq2SeqLM if seq2seq else AutoModelForCausalLM
    arguments = {"config": config, "dtype": dtype, **code_arguments(folder), **placing}
    base = base_folder(folder)
    with loading(folder):
        if sharing is None:
            model = auto.from_pretrained(str(base), **arguments)
        else:
            model, _ = load_shared(auto, base, sharing, **arguments)
    if has_adapter(folder):
        load_adapter(model, folder)
    return model.eval()


def has_score(config: Any) -> bool:
    """Whether the folder that `config` stands in holds a model that scores already."""
    names = getattr(config, "architectures", None) or []
    return any(name.endswith(("ForSequenceClassification", SCORING_SUFFIX)) for name in names)


def load_reward(
    folder: Path | str, dtype: torch.dtype | Literal["auto"], sharing: Sharing | None = None
) -> Any:
    """The scoring model in `folder`: one score a row, every dropout off, in eval mode.

    Decoders have a head without bias on every token; an encoder scores once, by the head it came
    with. Where the folder holds a base model, the head is drawn anew with torch's global generator
    (seed it for the same head again), a decoder's from a normal of standard deviation
    1 / sqrt(hidden + 1). With `sharing` each process loads its part of the weights, adapters and
    fresh heads excepted. Raises SettingsError where the folder's model has several labels, or a
    head that isn't one linear layer on hidden states.
    """
    config = without_noise(load_config(folder))
    if has_score(config) and config.num_labels != 1:
        raise SettingsError(
            f"{folder}: {config.architectures[0]} gives {config.num_labels} labels, a reward model "
            "gives one score: name a model with num_labels 1, or a base model without a head"
        )
    config.num_labels = 1
    arguments = {"config": config, "dtype": dtype, **code_arguments(folder)}
    with loading(folder):
        base = base_folder(folder)
        kind = scoring_class(config, base)
        if sharing is None:
            model, info = kind.from_pretrained(str(base), output_loading_info=True, **arguments)
            missing = list(info["missing_keys"])
        else:
            model, missing = load_shared(kind, base, sharing, **arguments)
    if kind_of(config) is not Kind.ENCODER:
        _fill_head(model, missing, folder)
    if has_adapter(folder):
        load_adapter(model, folder)
    return model.eval()


def _fill_head(model: Any, missing: Sequence[str], folder: Path | str) -> None:
    head: Any = getattr(model, "score", None)
    if not _is_plain(head):
        raise SettingsError(
            f"{folder}: {type(model).__name__} has no plain linear head named score; "
            "use a decoder-only model (Llama, Qwen, Mistral, GPT-2, OPT, ...)"
        )
    if any(key.endswith("score.weight") for key in missing):
        draw_head(head, "cpu")


def draw_head(head: torch.nn.Linear, device: torch.device | str) -> None:
    """Fresh weights from a normal of standard deviation 1 / sqrt(hidden + 1).

    Drawn on `device`, by its generator.
    """
    drawn = torch.empty(whole_shape(head.weight), dtype=head.weight.dtype, device=device)
    put(head.weight, drawn.normal_(0.0, (head.in_features + 1) ** -0.5))


SCORING_SUFFIX = "ForScoring"


def scoring_class(config: Any, folder: Path | str) -> Any:
    """transformers' class with one head, or ours for the families that have no such class.

    Raises SettingsError for a model of its own code in `folder` that has no AutoModel.
    """
    if _has_own_class(config):
        return AutoModelForSequenceClassification
    # T5's own class pools with a hidden layer of its own: no value per token could come of it.
    if type(config) in MODEL_MAPPING:
        return _headed(MODEL_MAPPING[type(config)])
    own = getattr(config, "auto_map", {}).get("AutoModel")
    if own is None:
        raise SettingsError(
            f"{folder}: {config.model_type} names no AutoModel in its auto_map, so that no head "
            "can be put on it: take a reward model with the actor's tokenizer, or another actor"
        )
    return _headed(get_class_from_dynamic_module(own, str(folder)))


@functools.cache
def _headed(backbone: Any) -> Any:
    """A model class of `backbone`'s family: the backbone and `score`, one linear layer on it."""
    family: Any = next(kind for kind in backbone.__mro__ if PreTrainedModel in kind.__bases__)

    # Where a family sees too, only its parts have a name for the backbone (Llama 4).
    prefix = family.base_model_prefix or backbone.base_model_prefix

    def init(self: Any, config: Any) -> None:
        family.__init__(self, config)
        setattr(self, prefix, backbone(config))
        self.score = torch.nn.Linear(config.get_text_config().hidden_size, 1, bias=False)
        self.post_init()

    name = backbone.__name__.removesuffix("Model") + SCORING_SUFFIX
    # What lies outside of transformers is taken to draw its weights itself, and then buffers that
    # a family fills from outside of their layer (Falcon-H1) would stay as memory was.
    own_code = classmethod(lambda kind: backbone.is_custom_code())
    inside = {"__init__": init, "__module__": __name__, "is_custom_code": own_code}
    return type(name, (family,), {**inside, "base_model_prefix": prefix})


def _has_own_class(config: Any) -> bool:
    """Whether transformers' class for scores is to be had, with a head on every token."""
    kind = MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING.get(type(config), None)
    if kind is None or kind_of(config) is Kind.ENCODER_DECODER:
        return False
    if kind_of(config) is Kind.ENCODER or kind.__name__ in (config.architectures or []):
        return True
    # Some put more than a plain head on their hidden states (CTRL): then ours is put on them.
    return _is_plain(score_of(kind, config))


def _is_plain(head: Any) -> bool:
    return isinstance(head, torch.nn.Linear) and head.bias is None


def scoring_example(
    config: Any, tokenizer: Any, prompt: Prompt, reply: str, max_length: int
) -> Example:
    """A conversation as the scoring model of that `config` reads it; see `models.chat`."""
    if kind_of(config) is Kind.ENCODER:
        return question_and_answer(tokenizer, prompt, reply, max_length)
    encode = whole_conversation if reads_whole(config) else conversation
    return encode(tokenizer, prompt, reply, max_length)


def reads_whole(config: Any) -> bool:
    """Whether a decoder reads conversations as its template renders them, to the last character.

    So it does where somebody else taught it to score: those that got their head here read what
    actors write, up to the end token, and say so in their config.
    """
    known: bool = getattr(config, READS_WHOLE, has_score(config))
    return known and kind_of(config) is Kind.CAUSAL


def score_inputs(model: Any, rows: Sequence[Example], pad_id: int) -> dict[str, torch.Tensor]:
    """B conversations as the arguments of `scores`, padded."""
    kind = kind_of(model.config)
    if kind is Kind.ENCODER_DECODER:
        prompt_ids, prompt_mask = pad_right([row.ids[: row.prompt_length] for row in rows], pad_id)
        reply, reply_mask = pad_right([row.ids[row.prompt_length :] for row in rows], pad_id)
        return {
            "input_ids": prompt_ids,
            "attention_mask": prompt_mask,
            "reply_ids": reply,
            "reply_mask": reply_mask,
        }
    ids, mask = pad_right([row.ids for row in rows], pad_id)
    inputs = {"input_ids": ids, "attention_mask": mask}
    if kind is Kind.ENCODER:
        starts = torch.tensor([row.prompt_length for row in rows])
        inputs |= token_types(model.config, starts, mask)
    return inputs


def scores(model: Any, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
    """The raw score of each row of `score_inputs`, `[B]` float32."""
    kind = kind_of(model.config)
    if kind is Kind.ENCODER:
        logits: torch.Tensor = model(**inputs).logits
        return logits[:, 0].float()
    ids, mask = inputs["input_ids"], inputs["attention_mask"]
    if kind is Kind.CAUSAL:
        return last_token_scores(model, ids, mask)
    hidden = _backbone(model)(
        **encoder_decoder_inputs(model, ids, mask, inputs["reply_ids"])
    ).last_hidden_state
    # Column 0 is the start token's, so the reply's last token stands in the column of its length.
    last = inputs["reply_mask"].sum(1)
    rows = torch.arange(len(last), device=last.device)
    found: torch.Tensor = plain(model).score(hidden[rows, last]).squeeze(-1).float()
    return found


def response_values(
    model: Any,
    prompt_ids: torch.Tensor,
    prompt_mask: torch.Tensor,
    response: torch.Tensor,
    action_mask: torch.Tensor,
) -> torch.Tensor:
    """The head before each token of `response[B,T]`: raw values `[B,T]` float32.

    The prompts `[B,P]` are left-padded, as in `models.language.response_logits`.
    """
    if kind_of(model.config) is Kind.ENCODER_DECODER:
        inputs = encoder_decoder_inputs(model, prompt_ids, prompt_mask, response[:, :-1])
        hidden = _backbone(model)(**inputs).last_hidden_state
        values: torch.Tensor = plain(model).score(hidden).squeeze(-1).float()
        return values
    ids, mask = joined(prompt_ids, prompt_mask, response, action_mask)
    return token_values(model, ids, mask)[:, -response.shape[1] :]


def token_values(model: Any, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
    """A decoder-only model's head on every position: `[B, L]`, `[B, L]` -> `[B, L]` float32.

    Positions count the mask's tokens, so that left and right padding give equal values (a family
    that padding before a row would disturb gets it behind); padded columns are 0.
    """
    if manner_of(model.config).left_padded:
        hidden = _hidden(model, input_ids, attention_mask)
        values: torch.Tensor = plain(model).score(hidden).squeeze(-1).float()
    else:
        order = tokens_first(attention_mask)
        moved = _hidden(model, input_ids.gather(1, order), attention_mask.gather(1, order))
        values = plain(model).score(moved).squeeze(-1).float().gather(1, order.argsort(1))
    return values.masked_fill(attention_mask == 0, 0.0)


def last_token_scores(
    model: Any, input_ids: torch.Tensor, attention_mask: torch.Tensor
) -> torch.Tensor:
    """A decoder-only model's raw score at each row's last token: `[B, L]` twice -> `[B]` float32.

    The last token is never inferred from pad ids: pad may equal the end token.
    """
    hidden = _hidden(model, input_ids, attention_mask)
    columns = torch.arange(attention_mask.shape[1], device=attention_mask.device)
    last = (columns * (attention_mask != 0)).argmax(dim=1)
    rows = torch.arange(len(last), device=last.device)
    found: torch.Tensor = plain(model).score(hidden[rows, last]).squeeze(-1).float()
    return found


class RewardScorer:
    """A published reward model with its tokenizer, as a function of prompts and replies.

    Scores are normalised by the shift and scale in the model's config: mean 0 and standard
    deviation 1 on the replies it was trained on. Any text gets a score: of a conversation longer
    than the model was trained for, the last tokens are read. `cut` counts those, and the ones that
    lost their oldest turns.
    """

    def __init__(self, folder: Path | str, device: str = "cpu", model: Any = None) -> None:
        """With `model`, the weights in `folder` as the caller has loaded them."""
        self.model = load_reward(folder, torch.float32).to(device) if model is None else model
        self.tokenizer = load_tokenizer(folder)
        config = self.model.config
        self.shift = float(getattr(config, SCORE_SHIFT, 0.0))
        self.scale = float(getattr(config, SCORE_SCALE, 1.0))
        limit = getattr(config, MAX_LENGTH, None) or longest_row(config, self.tokenizer)
        self.max_length = int(limit or LONGEST_ROW)
        self.cut = 0

    def __call__(self, prompts: list[Prompt], replies: list[str]) -> torch.Tensor:
        """`prompts[B]`, `replies[B]` -> normalised scores `[B]`, float32 on the CPU."""
        asked = counted("tokenizes replies", prompts, len(prompts), "replies")
        rows = [self._example(prompt, reply) for prompt, reply in zip(asked, replies, strict=True)]
        raw = score_rows(self.model, rows, self.tokenizer.pad_token_id)
        return (raw - self.shift) / self.scale

    def _example(self, prompt: Prompt, reply: str) -> Example:
        config, limit = self.model.config, self.max_length
        row = scoring_example(config, self.tokenizer, prompt, reply, limit)
        excess = len(row.ids) - limit
        self.cut += excess > 0 or row.cut_turns > 0
        if excess <= 0:
            return row
        # An encoder pools at its first token, and an encoder must have something to read.
        first = 0 if kind_of(config) is Kind.CAUSAL else 1
        ids = row.ids[:first] + row.ids[first + excess :]
        return row._replace(ids=ids, prompt_length=max(first, row.prompt_length - excess))


@torch.no_grad()
def score_rows(
    model: Any, rows: Sequence[Example], pad_id: int, what: str = "scores"
) -> torch.Tensor:
    """B conversations -> raw scores `[B]` on the CPU.

    Batches hold rows of like length, so that little is computed on padding. `what` this is for is
    told where it takes long.
    """
    found = torch.empty(len(rows))
    order = sorted(range(len(rows)), key=lambda row: (len(rows[row].ids), row))
    lengths = [len(rows[row].ids) for row in order]
    counter = phase(f"{what} {len(rows):,} replies", sum(lengths), "tokens")
    bound = read_bytes(model.device.type)
    for part in batches(lengths, shape_of(model), bound=bound):
        chosen = order[part]
        inputs = score_inputs(model, [rows[row] for row in chosen], pad_id)
        on_device = {name: value.to(model.device) for name, value in inputs.items()}
        found[torch.tensor(chosen)] = scores(model, on_device).cpu()
        counter.advance(sum(lengths[part]))
    return found


def pad_right(rows: Sequence[Sequence[int]], pad_id: int) -> tuple[torch.Tensor, torch.Tensor]:
    """B lists of ids -> `ids[B, L]` filled with `pad_id` on the right, `attention_mask[B, L]`."""
    width = max(len(row) for row in rows)
    ids = torch.tensor([[*row, *[pad_id] * (width - len(row))] for row in rows])
    mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows])
    return ids, mask


def _backbone(model: Any) -> Any:
    return plain(model).base_model


def _hidden(model: Any, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
    backbone = _backbone(model)
    output = backbone(**row_inputs(backbone, input_ids, attention_mask))
    hidden: torch.Tensor = output.last_hidden_state
    return hidden
