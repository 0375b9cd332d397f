"""The formats of rows that people have, as data: what tells each, and what its fields become.

A row is of a format where it has all fields that the format `needs`. What a format becomes is one
of these kinds, in our own fields:

| kind | fields |
|---|---|
| reply | `prompt`, `completion`, `score` if any |
| scored | `prompt`, `completion`, `score` |
| thumb | `prompt`, `completion` (or `messages`), `label` |
| talk | `messages`, `score` if any |
| pair | `prompt`, `chosen`, `rejected` |
| prompt | `prompt` |
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from chatllama_pipeline.data.own import conversions, exports, templated
from chatllama_pipeline.data.own.transcripts import is_transcript
from chatllama_pipeline.data.own.values import thumb_in
from chatllama_pipeline.data.splits import Row

Kind = Literal["reply", "scored", "thumb", "talk", "pair", "prompt"]
# What a table can learn from; prompts to practise on stand in every kind.
TABLE_KINDS: dict[str, tuple[Kind, ...]] = {
    "actor": ("reply", "talk"),
    "reward": ("reply", "scored", "thumb", "talk", "pair"),
    "rlhf": ("reply", "scored", "thumb", "talk", "pair", "prompt"),
}


@dataclass(frozen=True)
class Shape:
    """One format.

    `told` says in words what its fields become ("" for our own formats, of which nothing is told);
    `names` maps our fields to the format's, for errors and for what is a mere renaming. `convert`
    turns a row into rows of our fields; `fits` looks at values where names alone don't tell.
    `over` are formats that it wins against where a row is of both.
    """

    name: str
    kind: Kind
    needs: tuple[str, ...]
    told: str = ""
    names: Mapping[str, str] = field(default_factory=dict)
    takes: tuple[str, ...] = ()
    convert: Callable[[Row], list[Row]] | None = None
    fits: Callable[[Row], bool] = lambda row: True
    over: tuple[str, ...] = ()

    def rows(self, raw: Row) -> list[Row]:
        """A row of this format as rows of our fields."""
        if self.convert:
            return self.convert(raw)
        renamed = {ours: raw.get(theirs) for ours, theirs in self.names.items()}
        given = {name: raw[name] for name in (*self.needs, *self.takes) if name in raw}
        return [{**given, **renamed}]


def _has_thumb(row: Row) -> bool:
    return thumb_in(row["label"]) is not None


def _has_tag(row: Row) -> bool:
    return thumb_in(row["kto_tag"]) is not None


def _is_mapping(name: str) -> Callable[[Row], bool]:
    return lambda row: isinstance(row[name], Mapping)


def _are_messages(name: str) -> Callable[[Row], bool]:
    """Whether a field lists messages of parts."""
    return lambda row: (
        isinstance(row[name], list)
        and all(isinstance(one, Mapping) and "parts" in one for one in row[name])
    )


def _are_transcripts(row: Row) -> bool:
    return is_transcript(row["chosen"]) and is_transcript(row["rejected"])


def _are_lists(row: Row) -> bool:
    return not isinstance(row["chosen"], str) and not isinstance(row["rejected"], str)


_THUMBS_TOLD = "label true -> a thumb up (score 5), false -> a thumb down (score 0)"

SHAPES: tuple[Shape, ...] = (
    # Our own and the original's.
    Shape("user_input", "prompt", ("user_input",), names={"prompt": "user_input"}),
    Shape("prompt", "prompt", ("prompt",), takes=("system",), over=("messages",)),
    Shape(
        "user_input and completion",
        "reply",
        ("user_input", "completion"),
        names={"prompt": "user_input"},
        takes=("completion", "score"),
    ),
    Shape("prompt and completion", "reply", ("prompt", "completion"), takes=("score", "system")),
    Shape("messages", "talk", ("messages",), takes=("score", "system")),
    Shape(
        "prompt, chosen and rejected",
        "pair",
        ("prompt", "chosen", "rejected"),
        takes=("system",),
        over=("messages",),
    ),
    # Conversations and instructions.
    Shape(
        "ShareGPT",
        "talk",
        ("conversations",),
        "conversations of from and value -> turns of user and assistant",
        names={"messages": "conversations"},
        takes=("score", "system"),
    ),
    Shape(
        "Alpaca",
        "reply",
        ("instruction", "output"),
        "instruction + input -> prompt, output -> completion",
        names={"prompt": "instruction", "completion": "output"},
        takes=("input", "history", "score", "system"),
        convert=conversions.alpaca,
    ),
    Shape(
        "Alpaca's prompts",
        "prompt",
        ("instruction",),
        "instruction + input -> prompt",
        names={"prompt": "instruction"},
        takes=("input", "context", "system"),
        convert=conversions.alpaca,
    ),
    Shape(
        "Dolly",
        "reply",
        ("instruction", "response"),
        "instruction + context -> prompt, response -> completion",
        names={"prompt": "instruction", "completion": "response"},
        takes=("context", "score", "system"),
        convert=conversions.dolly,
    ),
    Shape(
        "OpenOrca",
        "reply",
        ("system_prompt", "question", "response"),
        "system_prompt + question -> prompt, response -> completion",
        names={"prompt": "question", "completion": "response", "system": "system_prompt"},
        takes=("score",),
    ),
    Shape(
        "Self-Instruct's seed tasks",
        "reply",
        ("instruction", "instances"),
        "instruction + input of each instance -> prompt, its output -> completion",
        names={"prompt": "instruction", "completion": "instances"},
        convert=conversions.seed_task,
    ),
    # What chat programs export, and texts by a chat template.
    Shape(
        "ChatGPT's export",
        "talk",
        ("mapping",),
        "the branch of mapping that was kept -> conversation; a reply that rests on a picture, a "
        "file or a tool is not imitated",
        names={"messages": "mapping"},
        convert=exports.chatgpt,
        fits=_is_mapping("mapping"),
    ),
    Shape(
        "Claude's export",
        "talk",
        ("chat_messages",),
        "chat_messages of sender and text -> conversation; a reply that rests on a file or a tool "
        "is not imitated",
        names={"messages": "chat_messages"},
        convert=exports.claude,
    ),
    Shape(
        "Gemini's contents",
        "talk",
        ("contents",),
        "contents of role and parts -> conversation, systemInstruction -> its system turn",
        names={"messages": "contents"},
        takes=("systemInstruction",),
        convert=exports.gemini,
        fits=_are_messages("contents"),
    ),
    Shape(
        "a chat template's text",
        "talk",
        ("text",),
        "the turns of text, without the template's marks -> conversation",
        names={"messages": "text"},
        convert=templated.conversation,
        fits=templated.is_templated,
    ),
    # Scores and thumbs.
    Shape(
        "HelpSteer",
        "scored",
        ("prompt", "response", "helpfulness"),
        "response -> completion, helpfulness 0..4 -> score 0..5 (times 1.25); the other ratings "
        "are passed over",
        names={"completion": "response", "score": "helpfulness"},
        convert=conversions.helpsteer,
    ),
    Shape(
        "KTO's thumbs",
        "thumb",
        ("prompt", "completion", "label"),
        _THUMBS_TOLD,
        takes=("system",),
        fits=_has_thumb,
    ),
    Shape(
        "KTO's conversations",
        "thumb",
        ("messages", "label"),
        f"messages -> prompt and completion, {_THUMBS_TOLD}",
        takes=("system",),
        fits=lambda row: _has_thumb(row) and is_null(row.get("score")),
    ),
    Shape(
        "LLaMA-Factory's thumbs",
        "thumb",
        ("messages", "kto_tag"),
        f"messages -> prompt and completion, {_THUMBS_TOLD.replace('label', 'kto_tag')}",
        names={"label": "kto_tag"},
        takes=("system",),
        fits=_has_tag,
    ),
    Shape(
        "ShareGPT's thumbs",
        "thumb",
        ("conversations", "kto_tag"),
        f"conversations -> prompt and completion, {_THUMBS_TOLD.replace('label', 'kto_tag')}",
        names={"messages": "conversations", "label": "kto_tag"},
        takes=("system",),
        fits=_has_tag,
    ),
    # Pairs.
    Shape(
        "UltraFeedback's pairs",
        "pair",
        ("prompt", "chosen", "rejected", "messages"),
        "the last turns of chosen and rejected -> a pair; score_chosen and score_rejected are "
        "passed over",
        takes=("system",),
    ),
    Shape(
        "OpenAI's preferences",
        "pair",
        ("input", "preferred_output", "non_preferred_output"),
        "input.messages -> prompt, preferred_output -> chosen, non_preferred_output -> rejected",
        names={
            "prompt": "input",
            "chosen": "preferred_output",
            "rejected": "non_preferred_output",
        },
        convert=conversions.openai_preference,
    ),
    Shape(
        "Orca's pairs",
        "pair",
        ("question", "chosen", "rejected"),
        "system + question -> prompt",
        names={"prompt": "question"},
        takes=("system",),
    ),
    Shape(
        "Alpaca's pairs",
        "pair",
        ("instruction", "chosen", "rejected"),
        "instruction + input -> prompt",
        names={"prompt": "instruction"},
        takes=("input", "system"),
        convert=conversions.alpaca,
    ),
    Shape(
        "ShareGPT's pairs",
        "pair",
        ("conversations", "chosen", "rejected"),
        "conversations -> prompt, the values of chosen and rejected -> a pair",
        names={"prompt": "conversations"},
        takes=("system",),
    ),
    Shape(
        "TRL's implicit prompt",
        "pair",
        ("chosen", "rejected"),
        "the turns that chosen and rejected begin with alike -> prompt, their last turns -> a pair",
        names={"prompt": "chosen"},
        takes=("system",),
        convert=conversions.implicit_prompt,
        fits=_are_lists,
    ),
    Shape(
        "hh-rlhf's transcripts",
        "pair",
        ("chosen", "rejected"),
        "all turns but the last -> prompt, the last ones -> a pair",
        names={"prompt": "chosen"},
        convert=conversions.transcripts,
        fits=_are_transcripts,
    ),
    Shape(
        "SHP",
        "pair",
        ("history", "human_ref_A", "human_ref_B", "labels"),
        "history -> prompt, labels 1 -> human_ref_A is chosen, 0 -> human_ref_B",
        names={"prompt": "history"},
        convert=conversions.shp_pair,
    ),
    Shape(
        "OASST's trees",
        "pair",
        ("message_tree_id", "prompt"),
        "a tree's ranked replies -> pairs of the best and each other one",
        names={"prompt": "prompt", "chosen": "prompt", "rejected": "prompt"},
        convert=conversions.oasst_pairs,
        fits=_is_mapping("prompt"),
        over=("OASST's trees, as conversations",),
    ),
    Shape(
        "OASST's trees, their prompts",
        "prompt",
        ("message_tree_id", "prompt"),
        "a tree's first message -> prompt",
        convert=conversions.oasst_prompt,
        fits=_is_mapping("prompt"),
        over=("OASST's trees", "OASST's trees, as conversations"),
    ),
    Shape(
        "OASST's trees, as conversations",
        "talk",
        ("message_tree_id", "prompt"),
        "a tree's best replies, from its prompt down -> one conversation",
        names={"messages": "prompt"},
        convert=conversions.oasst_talk,
        fits=_is_mapping("prompt"),
    ),
)


@dataclass(frozen=True)
class Refused:
    """A known format that can't be read, and what to do about it."""

    name: str
    needs: tuple[str, ...]
    cure: str


REFUSED: tuple[Refused, ...] = (
    Refused(
        "OASST's single messages",
        ("message_id", "text", "role"),
        "take the file of trees (`..._trees.jsonl.gz`) in its place",
    ),
    Refused(
        "UltraFeedback before its pairs were made",
        ("instruction", "completions"),
        "take ultrafeedback_binarized in its place",
    ),
    Refused(
        "Open WebUI's feedback",
        ("data", "snapshot"),
        "it is about replies of an assistant: `chatllama feedback import NAME FILE` reads it",
    ),
)

# Every field that some format reads; of a table's other columns nothing is read.
FIELDS = frozenset(
    name for shape in SHAPES for name in (*shape.needs, *shape.takes, *shape.names.values())
) | {name for form in REFUSED for name in form.needs}


def is_null(value: Any) -> bool:
    """Whether a value says nothing: tables of columns hold nulls, or empty texts, where another
    row has another form."""
    return value is None or value == ""
