"""Texts that a chat template made of whole conversations, as the conversations they were.

Published data often hold one column `text`, ready for one model's template. Learned from as it
stands, the marks of that template would be text to another.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from chatllama_pipeline.data.own.errors import UnfitError
from chatllama_pipeline.data.splits import Row

_ROLES = {
    "human": "user",
    "instruction": "user",
    "input": "user",
    "response": "assistant",
    "model": "assistant",
    "[inst]": "user",
    "[/inst]": "assistant",
}
# What fields a row with `text` has where the text is made of those.
_MADE_OF = ("instruction", "prompt", "question", "messages", "conversations", "chosen")
_ALPACA_SAYS = re.compile(r"Below is an instruction.*", re.DOTALL)
_LLAMA_SYSTEM = re.compile(r"\s*<<SYS>>(.*?)<</SYS>>\s*", re.DOTALL)


@dataclass(frozen=True)
class _Template:
    """`mark` opens a turn and names its role, `ends` closes it; `begins` may stand first."""

    mark: re.Pattern[str]
    begins: re.Pattern[str]
    ends: re.Pattern[str]


def _template(mark: str, begins: str = "", ends: str = "") -> _Template:
    return _Template(
        re.compile(mark), re.compile(rf"\s*(?:{begins})?\s*"), re.compile(rf"\s*(?:{ends})?\s*\Z")
    )


_TEMPLATES = (
    # ChatML; Llama 3; Gemma; Zephyr and Phi 3; Llama 2 and Mistral.
    _template(r"<\|im_start\|>(system|user|assistant)[ ]*\n", r"<\|endoftext\|>", r"<\|im_end\|>"),
    _template(
        r"<\|start_header_id\|>(system|user|assistant)<\|end_header_id\|>",
        r"<\|begin_of_text\|>",
        r"<\|eot_id\|>(?:<\|end_of_text\|>)?",
    ),
    _template(r"<start_of_turn>(user|model)[ ]*\n", "<bos>", "<end_of_turn>(?:\\s*<eos>)?"),
    _template(
        r"<\|(system|user|assistant)\|>", "<s>", r"(?:</s>|<\|end\|>)(?:\s*<\|endoftext\|>)?"
    ),
    _template(r"(?:<s>\s*)?(\[INST\]|\[/INST\])", "", "</s>"),
    # OpenAssistant's guanaco; Alpaca's prompt.
    _template(r"###[ ]*(Human|Assistant):", "", "</s>"),
    _template(r"(?:^|\n)###[ ]*(Instruction|Input|Response):", "", r"(?:</s>|<\|endoftext\|>)"),
)


def is_templated(row: Row) -> bool:
    """Whether a row's `text` is a conversation by a known template, and not made of its fields."""
    return _found(row["text"]) is not None and not any(row.get(name) for name in _MADE_OF)


def conversation(raw: Row) -> list[Row]:
    """The turns of `text`; an empty one at its end, where a model was to go on, is left out."""
    template = _found(raw["text"])
    if template is None:
        raise UnfitError("text", "is by no template that is known; write messages")
    _, *pieces = template.mark.split(raw["text"])
    turns: list[Row] = []
    for mark, said in zip(pieces[::2], pieces[1::2], strict=True):
        role, text = _ROLES.get(mark.lower(), mark.lower()), template.ends.sub("", said, 1).strip()
        if not turns and (system := _LLAMA_SYSTEM.match(text)):
            turns.append({"role": "system", "content": system[1].strip()})
            text = text[system.end() :]
        if turns and turns[-1]["role"] == role:
            turns[-1]["content"] = f"{turns[-1]['content']}\n\n{text}".strip()
        else:
            turns.append({"role": role, "content": text})
    while turns and not turns[-1]["content"]:
        turns.pop()
    return [{"messages": turns}]


def _found(text: Any) -> _Template | None:
    """The template whose marks a text begins with."""
    if not isinstance(text, str):
        return None
    for template in _TEMPLATES:
        first = template.mark.search(text)
        before = text[: first.start()] if first else ""
        if first and (template.begins.fullmatch(before) or _ALPACA_SAYS.fullmatch(before.strip())):
            return template
    return None
