"""What a writer is asked, as texts. Everything that somebody else wrote stands between marks."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass

from chatllama_pipeline.llm.marks import Marks
from chatllama_pipeline.llm.templates import Template
from chatllama_pipeline.records import Prompt

# Of a reply to score, from the best to the worst. A judge learns nothing from good ones alone.
QUALITIES: dict[str, str] = {
    "excellent": "as good as it can be: right, complete, clear, and in the assistant's manner",
    "good": "good, with one small flaw that a careful reader finds",
    "middling": "usable but weak: vague, too long or short, or it misses a part of the question",
    "poor": "poor: it contains a plain mistake, or it hardly answers what was asked",
    "worthless": "worthless: wrong, off topic, rude, or against what the assistant stands for",
}
_WHO = (
    "a beginner",
    "an expert",
    "a parent",
    "a student",
    "a colleague",
    "a customer",
    "a neighbour",
)
_HOW = ("in a hurry", "curious", "sceptical", "worried", "cheerful", "exact", "confused", "polite")
_ASKS = ("in one short sentence", "in a few sentences", "with much detail", "with an example")


def rows_schema(fields: Sequence[str]) -> str:
    """The JSON schema of `{"rows": [...]}` whose rows have these texts."""
    row = {
        "type": "object",
        "properties": {field: {"type": "string"} for field in fields},
        "required": list(fields),
        "additionalProperties": False,
    }
    return json.dumps(
        {
            "type": "object",
            "properties": {"rows": {"type": "array", "items": row}},
            "required": ["rows"],
            "additionalProperties": False,
        },
        sort_keys=True,
    )


@dataclass(frozen=True)
class Example:
    """A row to write others like it: where it is from, its prompt, its completion and score."""

    label: str
    prompt: Prompt
    completion: str = ""
    score: float | None = None


def brief(template: Template, marks: Marks, examples: Sequence[Example]) -> str:
    """The template with the examples in their place."""
    shown = marks.section("examples", _turns(examples, marks)) if examples else ""
    return template.fill({"examples": shown})


def _turns(examples: Sequence[Example], marks: Marks) -> str:
    lines: list[str] = []
    for number, example in enumerate(examples, start=1):
        lines.append(f"[example {number} {marks.mark}]")
        lines += [f"[{turn.role} {marks.mark}]\n{turn.content}" for turn in example.prompt]
        if example.completion:
            scored = "" if example.score is None else f" scored {example.score:g} of 5"
            lines.append(f"[assistant{scored} {marks.mark}]\n{example.completion}")
    return "\n".join(lines)


def _marks(template: Template, examples: Sequence[Example], *texts: str | Prompt) -> Marks:
    shown = [text for example in examples for text in (example.prompt, example.completion)]
    return Marks(template.text, *shown, *texts)


def pairs_text(template: Template, examples: Sequence[Example], count: int) -> str:
    """Asks for `count` new pairs of question and reply (self-instruct)."""
    marks = _marks(template, examples)
    return (
        f"{marks.guard}\n\nYou write training data for an AI assistant, of which you are told this:"
        f"\n\n{brief(template, marks, examples)}\n\n"
        f"Write {count} new pairs of what a person writes and what the assistant replies, in the "
        "language of the examples if there are any. No two shall be alike, nor like an example: "
        "choose other topics, tones, lengths and degrees of difficulty. Each reply is complete and "
        "keeps to all that is said of the assistant. Answer with JSON alone: "
        '{"rows": [{"user_input": "...", "completion": "..."}, ...]}'
    )


def questions_text(template: Template, examples: Sequence[Example], count: int) -> str:
    """Asks for `count` new things that people write to the assistant."""
    marks = _marks(template, examples)
    return (
        f"{marks.guard}\n\nYou write what people write to an AI assistant, of which you are told "
        f"this:\n\n{brief(template, marks, examples)}\n\n"
        f"Write {count} new messages that people may send to it, in the language of the examples "
        "if there are any. No two shall be alike, nor like an example: choose other topics, tones, "
        "lengths and degrees of difficulty. Do not answer them. Answer with JSON alone: "
        '{"rows": [{"user_input": "..."}, ...]}'
    )


def person_text(
    template: Template, examples: Sequence[Example], so_far: Prompt, rng: random.Random
) -> str:
    """Asks what a person writes first, or next; `rng` draws who that is."""
    marks = _marks(template, examples, so_far)
    who, how, asks = rng.choice(_WHO), rng.choice(_HOW), rng.choice(_ASKS)
    parts = [
        f"{marks.guard}\n\nYou play a person who talks to an AI assistant, of which you are told "
        f"this:\n\n{brief(template, marks, examples)}",
        f"You are {who}, {how}, and you write {asks}.",
    ]
    if so_far:
        parts.append(f"The conversation so far:\n{marks.section('conversation', so_far)}")
        parts.append("What do you write next? Go on from the last reply.")
    else:
        parts.append(
            "What do you write to begin? Take something that the assistant is for and that no "
            "example has, in the language of the examples if there are any."
        )
    parts.append("Answer with that message alone.")
    return "\n\n".join(parts)


def reply_text(
    template: Template,
    examples: Sequence[Example],
    prompt: Prompt,
    quality: str | None = None,
    rubric: str = "",
) -> str:
    """Asks for the assistant's reply to `prompt`: a good one, or one of a quality of `QUALITIES`
    by the judge's `rubric`."""
    marks = _marks(template, examples, prompt)
    parts = [
        f"{marks.guard}\n\nYou write a reply of an AI assistant, of which you are told this:"
        f"\n\n{brief(template, marks, examples)}",
        f"A person writes to it:\n{marks.section('conversation', prompt)}",
    ]
    if quality is None:
        parts.append("Write the assistant's reply: as good as it can be, in the person's language.")
    else:
        parts.append(
            f"A judge practises on replies of every quality, by these rules:\n{rubric}\n\n"
            f"Write a reply that is {QUALITIES[quality]}. Write it in the person's language, as "
            "the assistant would send it, and do not mention its quality."
        )
    parts.append("Answer with that reply alone.")
    return "\n\n".join(parts)
