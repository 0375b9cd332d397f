"""What a stage is about to do with tokens, said before it trains; stops on a contradiction."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from jinja2 import TemplateError

from chatllama_pipeline.errors import SettingsError
from chatllama_pipeline.models.chat import (
    CHAT_TEMPLATE,
    ENCODER_DECODER_TEMPLATE,
    Example,
    conversation,
    rendered,
    stop_ids,
)
from chatllama_pipeline.models.kinds import Kind, kind_of
from chatllama_pipeline.models.manner import ORDINARY, Manner, manner_of
from chatllama_pipeline.models.positions import limit_of, longest_row
from chatllama_pipeline.records import user_prompt
from chatllama_pipeline.settings import ActorSettings

PROBE, ANSWER = "what is asked", "what is said"


@dataclass(frozen=True)
class Preflight:
    """What was found: the template, the special tokens, and the longest row in tokens."""

    template: str
    bos: str
    end: str
    pad: str
    context: int
    context_of: str
    manner: Manner = ORDINARY

    def __str__(self) -> str:
        return (
            f"{self.template}; {self.bos}; a reply ends in {self.end}; padded with {self.pad}; "
            f"at most {self.context} tokens a row ({self.context_of})"
            f"{'' if self.manner.ordinary else f'; {self.manner}'}"
        )


def preflight(tokenizer: Any, config: Any, section: str, max_length: int) -> Preflight:
    """Look at tokenizer and model together, for rows of at most `max_length` tokens.

    `section` is the part of config.yaml that the model is named in. Raises SettingsError where no
    row could be told apart from another, ended, or read.
    """
    rows = getattr(config.get_text_config(), "vocab_size", len(tokenizer))
    if len(tokenizer) > rows:
        raise SettingsError(
            f"{section}.tokenizer_path: the tokenizer has {len(tokenizer)} ids, the model has "
            f"embeddings for {rows}: make the base model again, which looks after that"
        )
    if tokenizer.pad_token_id is None or tokenizer.eos_token_id is None:
        raise SettingsError(
            f"{section}.model: the tokenizer names no {'pad' if tokenizer.eos_token else 'end'} "
            "token: make the base model again, which looks one up"
        )
    pad = _pad(tokenizer)
    context, context_of = context_length(config, tokenizer, section, max_length)
    if kind_of(config) is Kind.ENCODER:
        template, bos = "question and answer are read as a pair of texts", "no chat template"
        end = repr(tokenizer.sep_token)
        return Preflight(template, bos, end, pad, context, context_of)
    probe = _probe(tokenizer, section)
    ends = [repr(token) for token in tokenizer.convert_ids_to_tokens(stop_ids(tokenizer))]
    ours = tokenizer.chat_template in (CHAT_TEMPLATE, ENCODER_DECODER_TEMPLATE)
    return Preflight(
        "our chat template, since the model has none" if ours else "the model's own chat template",
        "one BOS" if probe.ids[0] == tokenizer.bos_token_id else "no BOS, as the model's tokenizer",
        " or ".join(ends),
        pad,
        context,
        context_of,
        manner_of(config),
    )


def context_length(config: Any, tokenizer: Any, section: str, max_length: int) -> tuple[int, str]:
    """The longest row that both setting and model allow, and which of them it is."""
    limit = longest_row(config, tokenizer)
    if limit is None or limit >= max_length:
        return max_length, f"{section}.max_sequence_length"
    return limit, (
        f"the model's positions, or its tokenizer's limit; {section}.max_sequence_length "
        f"{max_length} is more than it has"
    )


def prompt_room(configs: Mapping[str, Any], tokenizer: Any, actor: ActorSettings) -> int:
    """Tokens that a prompt may have, so that the longest reply still fits behind it.

    `configs` are those of the models that read both, by their roles. Raises SettingsError where
    there is no room.
    """
    lengths = {"actor_config.max_sequence_length": actor.max_sequence_length}
    for role, config in configs.items():
        limit = longest_row(config, tokenizer)
        if limit is not None:
            lengths[f"the {role}'s {limit_of(limit, config)}"] = limit
    name, length = min(lengths.items(), key=lambda item: item[1])
    if actor.max_tokens >= length:
        raise SettingsError(
            f"actor_config.max_tokens {actor.max_tokens} leaves no room for a prompt within {name} "
            f"{length}: set actor_config.max_tokens to {length // 2} or so, or take a model that "
            "reads more"
        )
    return length - actor.max_tokens


def require_room(config: Any, tokenizer: Any, actor: ActorSettings) -> None:
    """`prompt_room` before anything is trained, of a `max_tokens` that is set: a run sets all."""
    if "max_tokens" in actor.model_fields_set:
        prompt_room({"actor": config}, tokenizer, actor)


def rows_in_words(examples: Iterable[Example], left_out: int) -> str:
    """How many rows are used, lost old turns, or were left out for their length."""
    shortened = [example.cut_turns > 0 for example in examples]
    return (
        f"{len(shortened)} rows, {sum(shortened)} of them without their oldest turns; {left_out} "
        "too long and left out"
    )


def _pad(tokenizer: Any) -> str:
    if tokenizer.pad_token_id == tokenizer.eos_token_id:
        return f"{tokenizer.pad_token!r}, the end token, told apart by masks"
    return repr(tokenizer.pad_token)


def _probe(tokenizer: Any, section: str) -> Example:
    """A conversation of one turn; what the user says must stand in it."""
    try:
        text = rendered(tokenizer, user_prompt(PROBE))
    except TemplateError as error:
        raise SettingsError(
            f"{section}.model: its chat template refuses a single question ({error}): mend "
            "chat_template in its tokenizer_config.json, or remove it to have ours"
        ) from error
    if PROBE not in text:
        raise SettingsError(
            f"{section}.model: its chat template leaves out what the user says: mend "
            "chat_template in its tokenizer_config.json, or remove it to have ours"
        )
    return conversation(tokenizer, user_prompt(PROBE), ANSWER, max_length=10**6)
