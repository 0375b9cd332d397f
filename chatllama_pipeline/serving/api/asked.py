"""Bodies of requests, checked: what is asked, and what can't be had told instead of ignored."""

from __future__ import annotations

import difflib
import re
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from chatllama_pipeline.records import Message, Prompt
from chatllama_pipeline.serving.api.access.refusals import Refusal, unsupported
from chatllama_pipeline.serving.api.transformers_chat import unpacked

MOST_STOPS = 4
# Keys that ask for something that isn't to be had, with the values that ask for nothing.
REFUSED: dict[str, tuple[tuple[Any, ...], str]] = {
    "n": ((1,), "one reply to a request is written; send several requests"),
    "best_of": ((1,), "one reply to a request is written; leave it out"),
    "logprobs": ((False,), "log-probabilities are not told; leave it out"),
    "top_logprobs": ((0,), "log-probabilities are not told; leave it out"),
    "tools": (([],), "this assistant calls no tools; leave them out"),
    "tool_choice": (("none", "auto"), "this assistant calls no tools; leave it out"),
    "parallel_tool_calls": ((True, False), "this assistant calls no tools; leave it out"),
    "functions": (([],), "this assistant calls no functions; leave them out"),
    "function_call": (("none", "auto"), "this assistant calls no functions; leave it out"),
    "response_format": (({"type": "text"},), "replies are plain text; leave it out"),
    "logit_bias": (({},), "the model's own distribution is sampled; leave it out"),
    "frequency_penalty": ((0,), "the model's own distribution is sampled; leave it out or say 0"),
    "presence_penalty": ((0,), "the model's own distribution is sampled; leave it out or say 0"),
    "modalities": ((["text"],), "this assistant reads and writes text alone; leave it out"),
    "audio": ((), "this assistant reads and writes text alone; leave it out"),
    "prediction": ((), "nothing is predicted; leave it out"),
    "echo": ((False,), "the prompt is not repeated; leave it out"),
    "suffix": (("",), "nothing is written before a text; leave it out"),
    "store": ((False,), "replies are not stored; leave it out"),
}
# Keys that are about the caller or the bill: nothing of a reply hangs on them.
ABOUT_THE_CALLER = {"user", "metadata", "service_tier", "safety_identifier", "prompt_cache_key"}
# Keys whose value is a text or a list of them.
TEXTS = ("stop", "prompt")
HALVES = re.compile("[\ud800-\udfff]")
ROLES = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant"}

_Asked = TypeVar("_Asked", bound="Asked")


class StreamOptions(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    include_usage: bool = False
    # Filling that would hide how long a piece is.
    include_obfuscation: Literal[False] = False


class Asked(BaseModel):
    """What both addresses take; None where the release's own setting holds."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    model: str
    temperature: Annotated[float, Field(ge=0, le=2, allow_inf_nan=False)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)] | None = None
    top_k: Annotated[int, Field(ge=0)] | None = None
    seed: Annotated[int, Field(ge=0, lt=2**63)] | None = None
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    stop: str | list[str] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if len(self.stops) > MOST_STOPS or not all(self.stops):
            raise ValueError(f"stop: give up to {MOST_STOPS} texts, none of them empty")
        if HALVES.search("".join(self.stops)):
            raise ValueError("stop: holds half a character (a lone surrogate)")
        if self.stream_options is not None and not self.stream:
            raise ValueError("stream_options: is for streams alone; say stream: true, or leave it")
        limits = {self.max_tokens, self.max_completion_tokens} - {None}
        if len(limits) > 1:
            raise ValueError("max_tokens and max_completion_tokens differ: give one of them")
        return self

    @property
    def stops(self) -> list[str]:
        if self.stop is None:
            return []
        return [self.stop] if isinstance(self.stop, str) else self.stop

    @property
    def most(self) -> int | None:
        return self.max_completion_tokens or self.max_tokens

    @property
    def include_usage(self) -> bool:
        return self.stream_options is not None and self.stream_options.include_usage


class AskedChat(Asked):
    messages: list[dict[str, Any]]


class AskedText(Asked):
    prompt: str | list[str]

    @property
    def text(self) -> str:
        """The one prompt; several are refused."""
        prompts = [self.prompt] if isinstance(self.prompt, str) else self.prompt
        if len(prompts) != 1:
            told = (
                f"one prompt to a request is read, and these are {len(prompts)}; send one in each"
            )
            raise unsupported("prompt", told)
        return _readable(prompts[0], "prompt")


def asked_chat(body: dict[str, Any]) -> AskedChat:
    """The body of /v1/chat/completions; raises Refusal."""
    return _validated(AskedChat, body)


def asked_text(body: dict[str, Any]) -> AskedText:
    """The body of /v1/completions; raises Refusal."""
    return _validated(AskedText, body)


def _validated(kind: type[_Asked], body: dict[str, Any]) -> _Asked:
    try:
        return kind.model_validate(_supported(unpacked(body)))
    except ValidationError as error:
        raise _explained(error.errors()[0], kind) from None


def _explained(detail: Any, kind: type[Asked]) -> Refusal:
    where = ".".join(str(part) for part in detail["loc"])
    if detail["type"] == "extra_forbidden":
        known = [*kind.model_fields, *REFUSED]
        close = difflib.get_close_matches(where, known, n=1)
        hint = f"did you mean {close[0]}?" if close else "leave it out"
        return Refusal(400, f"{where}: there is no such key; {hint}", param=where)
    if detail["type"] == "value_error":
        told = str(detail["ctx"]["error"])
        return Refusal(400, told, param=told.split(":")[0].split(" ")[0])
    if len(detail["loc"]) > 1 and detail["loc"][0] in TEXTS:
        # Of a text or a list of them each is tried, and only one of the two complains here.
        where, message = detail["loc"][0], "must be a text, or a list of texts"
    else:
        message = detail["msg"][:1].lower() + detail["msg"][1:]
    return Refusal(400, f"{where}: {message}".removeprefix(": "), param=where or None)


def conversation(messages: list[dict[str, Any]]) -> Prompt:
    """The messages as turns: at most one of the system's, first, and one of the user's, last."""
    turns = [_turn(message, f"messages[{place}]") for place, message in enumerate(messages)]
    for place, turn in enumerate(turns):
        if turn.role == "system" and place:
            raise _malformed(f"messages[{place}]", "a system message can only be the first")
    if not turns or turns[-1].role != "user":
        raise _malformed("messages", "the last message must be the user's: it is what is answered")
    return turns


def _turn(message: dict[str, Any], where: str) -> Message:
    role = message.get("role")
    if role in ("tool", "function"):
        raise unsupported(f"{where}.role", "this assistant calls no tools; leave the message out")
    if not isinstance(role, str) or role not in ROLES:
        raise _malformed(f"{where}.role", f"{role!r} is none of {', '.join(ROLES)}")
    for key, value in message.items():
        if key not in ("role", "content", "reasoning_content") and value:
            raise unsupported(f"{where}.{key}", "is not read; leave it out")
    return Message(ROLES[role], _text(message.get("content"), f"{where}.content"))


def _text(content: Any, where: str) -> str:
    if isinstance(content, str):
        return _readable(content, where)
    if not isinstance(content, list) or not content:
        raise _malformed(where, "must be a text, or a list of parts of type text")
    texts = []
    for place, part in enumerate(content):
        kind = part.get("type") if isinstance(part, dict) else None
        if kind != "text" or not isinstance(part.get("text"), str):
            raise unsupported(
                f"{where}[{place}]", f"this assistant reads text alone, and no part of type {kind}"
            )
        texts.append(_readable(part["text"], f"{where}[{place}].text"))
    return "\n".join(texts)


def _readable(text: str, where: str) -> str:
    """JSON can spell halves of characters, which are no text."""
    if HALVES.search(text):
        raise _malformed(where, "holds half a character (a lone surrogate)")
    return text


def _supported(body: dict[str, Any]) -> dict[str, Any]:
    """`body` without what asks for nothing; raises Refusal for what can't be had."""
    kept = {}
    for key, value in body.items():
        if value is None or key in ABOUT_THE_CALLER:
            continue
        if key in REFUSED:
            nothing, cure = REFUSED[key]
            # 1 is no True here: JSON tells them apart.
            same = (isinstance(value, bool) == isinstance(one, bool) for one in nothing)
            if not any(value == one and alike for one, alike in zip(nothing, same, strict=True)):
                raise unsupported(key, cure)
            continue
        kept[key] = value
    return kept


def _malformed(where: str, told: str) -> Refusal:
    return Refusal(400, f"{where}: {told}", param=where)
