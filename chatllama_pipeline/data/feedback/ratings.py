"""A person's word on replies, as it is sent, kept and read again."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, model_validator

from chatllama_pipeline.errors import DataError

# Ids and visits: random words, long enough that nobody guesses them.
Word = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{16,64}$")]
Text = Annotated[str, Field(min_length=1, max_length=200_000)]
Reason = Annotated[str, Field(max_length=2_000)]
# What JSON calls a number may be beyond what is one, and beyond what the log reads again.
Number = Annotated[float, Field(allow_inf_nan=False)] | int
Setting = Annotated[str, Field(max_length=64)]
Better = Literal["left", "right", "tie", "neither"]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class Turn(_Part):
    role: Literal["system", "user", "assistant"]
    content: Text


class Reply(_Part):
    """A reply as it was shown; `version` wrote it, "" where nobody knows."""

    text: Text
    version: Annotated[str, Field(max_length=64)] = ""
    sampling: dict[Setting, Number | None] = Field(default_factory=dict, max_length=8)


class _Rating(_Part):
    """`prompt`: the conversation up to the reply, the last turn the user's."""

    prompt: Annotated[list[Turn], Field(min_length=1, max_length=200)]

    @model_validator(mode="after")
    def _is_answered(self) -> Self:
        if self.prompt[-1].role != "user":
            raise ValueError("prompt: its last turn must be the user's")
        return self


class Thumb(_Rating):
    kind: Literal["thumb"] = "thumb"
    reply: Reply
    good: bool
    reason: Reason = ""


class Preference(_Rating):
    """Which of two replies is better; `left` and `right` are the sides on which they stood.

    `trial` is the blind trial that it is a vote of, "" if it is of none.
    """

    kind: Literal["preference"] = "preference"
    left: Reply
    right: Reply
    better: Better
    reason: Reason = ""
    trial: Word | Literal[""] = ""

    @model_validator(mode="after")
    def _differ(self) -> Self:
        if self.left.text == self.right.text and self.better in ("left", "right"):
            raise ValueError("better: both replies are the same text; say tie")
        return self


class Edit(_Rating):
    """What the reply should have been."""

    kind: Literal["edit"] = "edit"
    reply: Reply
    edited: Text

    @model_validator(mode="after")
    def _differs(self) -> Self:
        if self.edited == self.reply.text:
            raise ValueError("edited: it is the reply unchanged; rate it with a thumb")
        return self


Rating = Thumb | Preference | Edit
_RATINGS: TypeAdapter[Rating] = TypeAdapter(Annotated[Rating, Field(discriminator="kind")])
_WORD: TypeAdapter[str] = TypeAdapter(Word)


def rating_of(raw: Any) -> Rating:
    """A rating from JSON data; DataError names the field and what is wrong with it."""
    try:
        return _RATINGS.validate_python(raw)
    except ValidationError as error:
        raise DataError(_explained(error.errors()[0])) from None


def word_of(raw: Any, name: str) -> str:
    """An id or visit; DataError where it is no random word."""
    try:
        return _WORD.validate_python(raw, strict=True)
    except ValidationError:
        raise DataError(
            f"{name}: must be 16 to 64 letters, digits, _ or -, made up at random"
        ) from None


def _explained(detail: Any) -> str:
    # The first part of a place is the kind that was chosen.
    where = ".".join(str(part) for part in detail["loc"][1:])
    if detail["type"] == "value_error":
        return str(detail["ctx"]["error"])
    if detail["type"].startswith("union_tag"):
        return "kind: must be thumb, preference or edit"
    return f"{where}: {detail['msg'][:1].lower()}{detail['msg'][1:]}".removeprefix(": ")
