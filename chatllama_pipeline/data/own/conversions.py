"""Rows of other programs' formats as rows of our own fields, where renaming isn't enough.

Each takes a row that has the fields its format needs; what can't be read is an UnfitError that
names the field.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from chatllama_pipeline.data.own.errors import UnfitError, told_value
from chatllama_pipeline.data.own.transcripts import turns_of
from chatllama_pipeline.data.own.values import ROLE_NAMES, number_in, plain_turn, text_error
from chatllama_pipeline.data.splits import Row

_HELPFULNESS_TO_SCORE = 5 / 4


def alpaca(raw: Row) -> list[Row]:
    """`instruction`, a blank line, and what there is of `input` (of `context` among prompts);
    `history` holds earlier turns as [said, answered]."""
    second = "input" if raw.get("input") else "context"
    row = {**_kept(raw), "prompt": _joined(raw, "instruction", second)}
    if "output" in raw:
        row["completion"] = raw["output"]
    if history := raw.get("history"):
        row["prompt"] = [*_earlier(history), {"role": "user", "content": row["prompt"]}]
    return [row]


def dolly(raw: Row) -> list[Row]:
    prompt = _joined(raw, "instruction", "context")
    return [{**_kept(raw), "prompt": prompt, "completion": raw["response"]}]


def _kept(raw: Row) -> Row:
    names = ("score", "system", "chosen", "rejected")
    return {name: raw[name] for name in names if name in raw}


def _joined(raw: Row, first: str, second: str) -> str:
    texts = [raw[first]]
    # Some exports write what isn't there as a word.
    if raw.get(second) not in (None, "", "<noinput>", "<nocontext>"):
        texts.append(raw[second])
    for name, text in zip((first, second), texts, strict=False):
        if told := text_error(text):
            raise UnfitError(name, told)
    return "\n\n".join(texts)


def _earlier(history: Any) -> list[Row]:
    if not isinstance(history, list) or not all(
        isinstance(turn, list) and len(turn) == 2 for turn in history
    ):
        raise UnfitError(
            "history", f"{told_value(history)} is no list of [said, answered]; correct it"
        )
    roles = ("user", "assistant")
    return [
        {"role": role, "content": text}
        for turn in history
        for role, text in zip(roles, turn, strict=True)
    ]


def seed_task(raw: Row) -> list[Row]:
    instances = raw["instances"]
    if not isinstance(instances, list) or not all(isinstance(one, Mapping) for one in instances):
        raise UnfitError("instances", f"{told_value(instances)} is no list of objects; correct it")
    return [
        {
            "prompt": _joined({**one, "instruction": raw["instruction"]}, "instruction", "input"),
            "completion": one.get("output"),
        }
        for one in instances
    ]


def helpsteer(raw: Row) -> list[Row]:
    given = raw["helpfulness"]
    number = number_in(given) if isinstance(given, str) else given
    if isinstance(number, bool) or not isinstance(number, int | float) or not 0 <= number <= 4:
        raise UnfitError(
            "helpfulness", f"{told_value(given)} is no rating; write a number from 0 to 4"
        )
    score = number * _HELPFULNESS_TO_SCORE
    return [{"prompt": raw["prompt"], "completion": raw["response"], "score": score}]


def openai_preference(raw: Row) -> list[Row]:
    given = raw["input"]
    prompt = given.get("messages") if isinstance(given, Mapping) else None
    if prompt is None:
        raise UnfitError("input", f'{told_value(given)} is no object with "messages"; add them')
    chosen, rejected = raw["preferred_output"], raw["non_preferred_output"]
    return [{"prompt": prompt, "chosen": chosen, "rejected": rejected}]


def implicit_prompt(raw: Row) -> list[Row]:
    sides = {}
    for name in ("chosen", "rejected"):
        if not isinstance(raw[name], list):
            raise UnfitError(name, f"{told_value(raw[name])} is no list of turns; correct it")
        sides[name] = [plain_turn(turn) for turn in raw[name]]
    chosen, rejected = sides["chosen"], sides["rejected"]
    if chosen[:-1] != rejected[:-1]:
        raise UnfitError(
            "rejected", "does not begin with the same turns as chosen, but for the last; correct it"
        )
    if not chosen[:-1]:
        raise UnfitError("chosen", "holds a reply and no prompt; add the field prompt")
    return [{**_kept(raw), "prompt": chosen[:-1], "chosen": chosen[-1:], "rejected": rejected[-1:]}]


def transcripts(raw: Row) -> list[Row]:
    pair = {name: turns_of(raw[name]) for name in ("chosen", "rejected")}
    return implicit_prompt(pair)


def shp_pair(raw: Row) -> list[Row]:
    first, second = raw["human_ref_A"], raw["human_ref_B"]
    label = raw["labels"]
    number = number_in(label) if isinstance(label, str) else label
    if number not in (0, 1):
        raise UnfitError("labels", f"{told_value(label)} is no label; write 1 or 0")
    chosen, rejected = (first, second) if number == 1 else (second, first)
    return [{"prompt": raw["history"], "chosen": chosen, "rejected": rejected}]


def oasst_prompt(raw: Row) -> list[Row]:
    return [{"prompt": [_oasst_turn(raw["prompt"])]}]


def oasst_talk(raw: Row) -> list[Row]:
    """One conversation: from the prompt on always the best reply, to the last of the assistant."""
    turns, node = [], raw["prompt"]
    while node is not None:
        turns.append(_oasst_turn(node))
        node = next(iter(_oasst_replies(node)), None)
    if turns[-1]["role"] != "assistant":
        turns.pop()
    return [{"messages": turns}] if turns else []


def oasst_pairs(raw: Row) -> list[Row]:
    """Wherever replies of the assistant are ranked: the best one with each of the others."""
    rows: list[Row] = []
    waiting: list[tuple[list[Row], Row]] = [([], raw["prompt"])]
    while waiting:
        before, node = waiting.pop()
        turns = [*before, _oasst_turn(node)]
        replies = _oasst_replies(node)
        ranked = [reply for reply in replies if reply.get("rank") is not None]
        if turns[-1]["role"] == "user":
            texts = [_oasst_turn(reply)["content"] for reply in ranked]
            rows += [{"prompt": turns, "chosen": texts[0], "rejected": text} for text in texts[1:]]
        waiting += [(turns, reply) for reply in reversed(replies)]
    # A tree without ranked replies gives its prompt alone, which is none of a pair.
    return rows


def _oasst_turn(node: Mapping[str, Any]) -> Row:
    role = node.get("role")
    said = ROLE_NAMES.get(role, role) if isinstance(role, str) else role
    return {"role": said, "content": node.get("text")}


def _oasst_replies(node: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """A message's replies, the best first, those without a rank last."""
    replies = node.get("replies") or []
    if not isinstance(replies, list) or not all(isinstance(one, Mapping) for one in replies):
        raise UnfitError("prompt", f"{told_value(replies)} are no replies of a tree; correct them")
    kept = [one for one in replies if not one.get("deleted")]
    return sorted(kept, key=lambda one: (one.get("rank") is None, one.get("rank") or 0))
