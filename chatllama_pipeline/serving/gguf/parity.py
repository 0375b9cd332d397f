"""Whether a GGUF file reads and says what the model does that it was made from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any, NamedTuple

import torch

from chatllama_pipeline.errors import CheckError
from chatllama_pipeline.models.chat.plain_text import plain_text_of
from chatllama_pipeline.models.chat.rendering import rendered
from chatllama_pipeline.models.chat.template import conversation, prompt_ids
from chatllama_pipeline.records import Message, Prompt
from chatllama_pipeline.serving.gguf.llama_cpp import LlamaCpp
from chatllama_pipeline.serving.gguf.probes import Probe
from chatllama_pipeline.serving.loaded import Loaded

PROMPTS = 50
# How many tokens of a reply stand before the one that is compared.
STEPS = (0, 1, 2, 4, 8, 16)


@dataclass(frozen=True)
class Parity:
    """Of `prompts` all were read alike; `agreed` of `tokens` were the model's own next ones."""

    prompts: int
    tokens: int
    agreed: int

    @property
    def agreement(self) -> float:
        return self.agreed / self.tokens

    def __str__(self) -> str:
        return f"{self.agreement:.1%} of {self.tokens} next tokens on {self.prompts} prompts"


class Known(NamedTuple):
    """What the full model makes of a probe: its ids and the likeliest token behind each step."""

    turns: Prompt
    messages: list[dict[str, str]]
    prompt: list[int]
    ids: list[int]
    likeliest: dict[int, int]


@torch.inference_mode()
def known_of(full: Loaded, probes: Sequence[Probe]) -> list[Known]:
    """What the full model makes of the first `PROMPTS` probes that it has room for.

    Left out are those that spell control tokens, which llama.cpp reads as such. Raises CheckError
    where none is left.
    """
    found: list[Known] = []
    plain = plain_text_of(full.tokenizer)
    for prompt, reply in probes:
        texts = [reply, *(turn.content for turn in prompt)]
        if any(map(plain.spells_marks, texts)):
            continue
        # A template may name the day, and llama.cpp knows that of today alone.
        ids = prompt_ids(full.tokenizer, prompt, full.context, date.today())
        example = conversation(full.tokenizer, prompt, reply, full.context)
        answer = example.ids[example.prompt_length :]
        if example.cut_turns or len(ids) + len(answer) > full.context:
            continue
        row = torch.tensor([ids + answer], device=full.model.device)
        best = full.model(input_ids=row).logits[0].argmax(-1).tolist()
        steps = [step for step in STEPS if step < len(answer)]
        likeliest = {len(ids) + step: best[len(ids) + step - 1] for step in steps}
        messages = _told(full.tokenizer, prompt)
        found.append(Known(prompt, messages, ids, ids + answer, likeliest))
        if len(found) == PROMPTS:
            break
    if not found:
        raise CheckError("no test prompt fits into the model's context: nothing to compare with")
    return found


def compare(server: LlamaCpp, known: Sequence[Known], told: str) -> Parity:
    """How the file that `server` runs compares; CheckError where it reads a prompt otherwise."""
    agreed = tokens = 0
    for one in known:
        read = server.prompt_ids(one.messages)
        if read != one.prompt:
            place = next(
                (
                    i
                    for i, pair in enumerate(zip(read, one.prompt, strict=False))
                    if len({*pair}) > 1
                ),
                min(len(read), len(one.prompt)),
            )
            raise CheckError(
                f"{told}: llama.cpp reads the prompt {one.messages[-1]['content']!r} as other ids "
                f"than the model was trained on, from token {place} on "
                f"({read[place : place + 3]} for {one.prompt[place : place + 3]}): it would answer "
                "worse than it was trained to, so nothing was written. Release it as it is"
            )
        for length, token in one.likeliest.items():
            tokens += 1
            agreed += server.greedy(one.ids[:length], 1) == [token]
    return Parity(len(known), tokens, agreed)


def _told(tokenizer: Any, prompt: Prompt) -> list[dict[str, str]]:
    """The conversation as an API is told it; a system turn that the template doesn't know opens
    the user's, as everywhere."""
    turns = prompt
    if prompt[0].role == "system" and len(prompt) > 1:
        joined = [Message("user", f"{prompt[0].content}\n\n{prompt[1].content}"), *prompt[2:]]
        if rendered(tokenizer, prompt) == rendered(tokenizer, joined):
            turns = joined
    return [{"role": turn.role, "content": turn.content} for turn in turns]
