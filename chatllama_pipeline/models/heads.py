"""Models with and without a value head, and the scorer that a reward model's folder becomes."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
)

from chatllama_pipeline.errors import SettingsError
from chatllama_pipeline.models.chat import conversation_ids
from chatllama_pipeline.records import Prompt

SCORE_SHIFT = "chatllama_score_shift"
SCORE_SCALE = "chatllama_score_scale"
MAX_LENGTH = "chatllama_max_length"

ROWS_PER_BATCH = 64


def load_actor(folder: Path | str, dtype: torch.dtype) -> Any:
    """The causal language model in `folder`, every dropout off, in eval mode."""
    config = _config_without_dropout(folder)
    return AutoModelForCausalLM.from_pretrained(str(folder), config=config, dtype=dtype)


def load_reward(folder: Path | str, dtype: torch.dtype) -> Any:
    """The scoring model in `folder`: one score per token position, no bias, every dropout off.

    Where the folder holds a base language model, the head is drawn anew from a normal of standard
    deviation 1 / sqrt(hidden + 1) with torch's global generator: seed it for the same head again.
    Raises SettingsError for an architecture whose head isn't one linear layer on hidden states.
    """
    config = _config_without_dropout(folder)
    config.num_labels = 1
    loaded = AutoModelForSequenceClassification.from_pretrained(
        str(folder), config=config, dtype=dtype, output_loading_info=True
    )
    model, info = loaded
    head = getattr(model, "score", None)
    if not isinstance(head, torch.nn.Linear) or getattr(head, "bias", None) is not None:
        raise SettingsError(
            f"{folder}: {type(model).__name__} has no plain linear head named score; "
            "use a decoder-only model (Llama, Qwen, Mistral, GPT-2, OPT, ...)"
        )
    if any(key.endswith("score.weight") for key in info["missing_keys"]):
        with torch.no_grad():
            head.weight.normal_(0.0, (head.in_features + 1) ** -0.5)
    return model


def token_values(model: Any, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
    """The head on every position: `input_ids[B, L]`, `attention_mask[B, L]` -> `[B, L]` float32.

    Positions count the mask's tokens, so that left and right padding give equal values; padded
    columns are 0.
    """
    hidden = _hidden(model, input_ids, attention_mask)
    values: torch.Tensor = model.score(hidden).squeeze(-1).float()
    return values.masked_fill(attention_mask == 0, 0.0)


def last_token_scores(
    model: Any, input_ids: torch.Tensor, attention_mask: torch.Tensor
) -> torch.Tensor:
    """The raw score at each row's last token by the mask: `[B, L]`, `[B, L]` -> `[B]` float32.

    The last token is never inferred from pad ids: pad may equal the end token.
    """
    hidden = _hidden(model, input_ids, attention_mask)
    columns = torch.arange(attention_mask.shape[1], device=attention_mask.device)
    last = (columns * (attention_mask != 0)).argmax(dim=1)
    rows = torch.arange(len(last), device=last.device)
    scores: torch.Tensor = model.score(hidden[rows, last]).squeeze(-1).float()
    return scores


class RewardScorer:
    """A published reward model with its tokenizer, as a function of prompts and replies.

    Scores are normalised by the shift and scale in the model's config: mean 0 and standard
    deviation 1 on the replies it was trained on. Any text gets a score: of a conversation longer
    than the model was trained for, the last tokens are read.
    """

    def __init__(self, folder: Path | str, device: str = "cpu") -> None:
        self.model = load_reward(folder, torch.float32).to(device)
        self.tokenizer = AutoTokenizer.from_pretrained(str(folder))
        config = self.model.config
        self.shift = float(getattr(config, SCORE_SHIFT, 0.0))
        self.scale = float(getattr(config, SCORE_SCALE, 1.0))
        self.max_length = int(getattr(config, MAX_LENGTH, config.max_position_embeddings))

    def __call__(self, prompts: list[Prompt], replies: list[str]) -> torch.Tensor:
        """`prompts[B]`, `replies[B]` -> normalised scores `[B]`, float32 on the CPU."""
        rows = [
            conversation_ids(self.tokenizer, prompt, reply, self.max_length)[0][-self.max_length :]
            for prompt, reply in zip(prompts, replies, strict=True)
        ]
        raw = score_rows(self.model, rows, self.tokenizer.pad_token_id)
        return (raw - self.shift) / self.scale


@torch.no_grad()
def score_rows(model: Any, rows: list[list[int]], pad_id: int) -> torch.Tensor:
    """Token ids of B conversations -> raw scores `[B]` on the CPU.

    Batches hold rows of like length, so that little is computed on padding.
    """
    scores = torch.empty(len(rows))
    order = sorted(range(len(rows)), key=lambda row: (len(rows[row]), row))
    for start in range(0, len(order), ROWS_PER_BATCH):
        chosen = order[start : start + ROWS_PER_BATCH]
        ids, mask = pad_right([rows[row] for row in chosen], pad_id)
        batch = last_token_scores(model, ids.to(model.device), mask.to(model.device))
        scores[torch.tensor(chosen)] = batch.cpu()
    return scores


def pad_right(rows: list[list[int]], pad_id: int) -> tuple[torch.Tensor, torch.Tensor]:
    """B lists of ids -> `ids[B, L]` filled with `pad_id` on the right, `attention_mask[B, L]`."""
    width = max(len(row) for row in rows)
    ids = torch.tensor([row + [pad_id] * (width - len(row)) for row in rows])
    mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows])
    return ids, mask


def _hidden(model: Any, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
    backbone = model.base_model
    arguments: dict[str, Any] = {"use_cache": False}
    # Models with relative positions alone (BLOOM's ALiBi) take none.
    if "position_ids" in inspect.signature(backbone.forward).parameters:
        arguments["position_ids"] = (attention_mask.long().cumsum(dim=1) - 1).clamp(min=0)
    output = backbone(input_ids=input_ids, attention_mask=attention_mask, **arguments)
    hidden: torch.Tensor = output.last_hidden_state
    return hidden


def _config_without_dropout(folder: Path | str) -> Any:
    config = AutoConfig.from_pretrained(str(folder))
    for name, value in config.to_dict().items():
        if "drop" in name and isinstance(value, float):
            setattr(config, name, 0.0)
    return config
