"""One call to a server that speaks the OpenAI API, by the `openai` SDK, and what went wrong in it.

The SDK's own retries are off: they would be neither counted nor held against the budget, the rate
limits and the breaker, which see every attempt this way (`dispatch.py`).
"""

from __future__ import annotations

import asyncio
import email.utils
import json
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from typing import Any

from chatllama_pipeline.llm.client.money import likely_prompt_tokens
from chatllama_pipeline.llm.client.refusals import (
    CallError,
    error_status,
    refusal,
    told_of_parameter,
)
from chatllama_pipeline.llm.client.replies import clean, read_reply, redact
from chatllama_pipeline.llm.client.requests import LlmReply, LlmRequest
from chatllama_pipeline.llm.client.sdk import open_sdk, read_key
from chatllama_pipeline.settings import RoleSettings

CHAT, COMPLETIONS = "/chat/completions", "/completions"

_DETAIL_CHARACTERS = 2000
# By name: the SDK changes the library below it between versions. Such calls were never sent.
_UNSENT = {
    *("ConnectError", "ConnectTimeout", "PoolTimeout", "ProxyError", "LocalProtocolError"),
    *("UnsupportedProtocol", "InvalidURL", "UnicodeEncodeError", "OverflowError", "ImportError"),
    *("ExceptionGroup", "TooManyRedirects"),
}
_OTHER_MAX = {"max_tokens": "max_completion_tokens", "max_completion_tokens": "max_tokens"}


class Changes:
    """What a client found out that its server refuses, and goes on without; `tell` hears of each
    once."""

    def __init__(self, tell: Callable[[str], None] = lambda text: None) -> None:
        self.refused: set[str] = set()
        self.tell = tell

    def go_without(self, parameter: str, detail: str, role: RoleSettings) -> None:
        if parameter in self.refused:
            return
        self.refused.add(parameter)
        instead = f" {_OTHER_MAX[parameter]} is sent instead" if parameter in _OTHER_MAX else ""
        cure = "" if instead else f"; {role.key}.omit: [{parameter}] sends none from the start"
        self.tell(
            f"{role.key}: {role.base_url} refuses {parameter} for {role.model}, and is asked "
            f"without:{instead or ' it is left out'}{cure}. It said: {detail[:200]}"
        )


def request_body(
    request: LlmRequest, role: RoleSettings, refused: Collection[str] = ()
) -> dict[str, Any]:
    """The JSON body of a request, in the role's style, without what it omits or was `refused`."""
    without = {*role.omit, *refused}
    # OpenAI's newer models refuse max_tokens, many other servers know nothing else.
    longest = "max_completion_tokens" if role.is_openai and role.style == "chat" else "max_tokens"
    if longest in without and longest not in role.omit:
        longest = _OTHER_MAX[longest]
    body: dict[str, Any] = {"model": role.model}
    if role.style == "completion":
        body["prompt"] = completion_prompt(request)
    else:
        body["messages"] = [
            {"role": message.role, "content": clean(message.content)}
            for message in request.messages
        ]
    if "temperature" not in without:
        body["temperature"] = request.temperature
    if "max_tokens" not in role.omit:
        body[longest] = request.max_tokens
    if request.seed is not None and "seed" not in without:
        body["seed"] = request.seed
    if request.json_schema is not None and role.style == "chat" and "json_schema" not in without:
        schema = {"name": "reply", "strict": True, "schema": json.loads(request.json_schema)}
        body["response_format"] = {"type": "json_schema", "json_schema": schema}
    return body | dict(role.extra_body)


def completion_prompt(request: LlmRequest) -> str:
    """A conversation as plain text: a single turn as it is, else turns with their names."""
    turns = [message for message in request.messages if message.role != "system"]
    parts = [clean(m.content) for m in request.messages if m.role == "system"]
    if len(turns) == 1 and turns[0].role == "user":
        return "\n\n".join([*parts, clean(turns[0].content)])
    names = {"user": "User", "assistant": "Assistant"}
    spoken = [f"{names.get(m.role, m.role)}: {clean(m.content)}" for m in turns]
    return "\n\n".join([*parts, *spoken, "Assistant:"])


class OpenAiCaller:
    """Makes calls for a role. Use it within one event loop, as an async context manager."""

    def __init__(self, role: RoleSettings, changes: Changes | None = None) -> None:
        import openai

        self.role = role
        self._key = read_key(role)
        self._openai = openai
        self._changes = changes or Changes()
        self._client = open_sdk(role, self._key)
        self._path = CHAT if role.style == "chat" else COMPLETIONS

    async def __aenter__(self) -> OpenAiCaller:
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self._client.close()

    async def __call__(self, request: LlmRequest) -> LlmReply:
        """Raises CallError; what the server refuses and nothing depends on is left out."""
        while True:
            body = request_body(request, self.role, self._changes.refused)
            try:
                return await self._ask(request, body)
            except CallError as error:
                if error.scope != "parameter":
                    raise
                self._changes.go_without(error.parameter, error.detail, self.role)
                if request_body(request, self.role, self._changes.refused) == body:
                    raise told_of_parameter(error.parameter, error.detail, self.role) from None

    async def _ask(self, request: LlmRequest, body: dict[str, Any]) -> LlmReply:
        data: Any = None
        try:
            # The SDK's timeout is for each read; a server that drips would hold a call for ever.
            async with asyncio.timeout(self.role.timeout):
                # `create` would transform each message and build its own records of the reply, at
                # a quarter of a call's CPU time.
                data = await self._client.post(self._path, cast_to=object, body=body)
            if isinstance(data, str):
                data = self._from_text(data)
            if isinstance(data, dict) and data.get("error") and not data.get("choices"):
                raise self._refused(error_status(data), json.dumps(data), {}, body)
            likely = likely_prompt_tokens(request)
            return read_reply(data, self.role.style, self.role.model, likely)
        except CallError:
            raise
        except (TimeoutError, self._openai.APITimeoutError):
            detail = f"no reply within {self.role.timeout:g} s ({self.role.key}.timeout)"
            raise CallError("call", "timeout", detail, reached=False, charged=True) from None
        except self._openai.APIStatusError as error:
            text, headers = error.response.text, error.response.headers
            if error.response.history:
                text = f"(after a redirect to {error.response.url}) {text}"
            raise self._refused(int(error.status_code), text, headers, body) from None
        except self._openai.APIConnectionError as error:
            raise self._dropped(error.__cause__ or error) from None
        except json.JSONDecodeError as error:
            raise self._malformed(error, error.doc) from None
        except ValueError as error:
            raise self._malformed(error, json.dumps(data)) from None
        except RecursionError:
            raise self._malformed("its JSON is nested too deeply", "") from None
        except Exception as error:
            # Nothing that a server or an environment does may end a run without a word on it.
            told = self._redacted(f"{type(error).__name__}: {error}")
            why = f"{self.role.key}: the call to {self.role.base_url} could not be made ({told})"
            raise CallError("provider", "refused", why) from error

    def _from_text(self, text: str) -> Any:
        """The JSON of a body whose content type doesn't say so."""
        try:
            return json.loads(text)
        except ValueError:
            pass
        if text.lstrip().startswith(("data:", "event:", ":")):
            what = "sends a stream of events where one reply was asked for"
            cure = f"set {self.role.key}.extra_body: {{stream: false}}, or turn its streaming off"
        elif text.strip():
            what = "does not speak the OpenAI API"
            cure = "is base_url right (it usually ends in /v1), and no login page before it?"
        else:
            raise ValueError("the body is empty")
        said = self._redacted(f"{self.role.base_url} {what}: {cure} It said: {text}")
        raise CallError("protocol", "malformed_reply", said, charged=True)

    def _malformed(self, error: object, told: str) -> CallError:
        if told.lstrip().startswith(("<", "data:", "event:")):
            try:
                self._from_text(told)
            except CallError as told_of:
                return told_of
        detail = self._redacted(f"{error}: {told}")
        return CallError("call", "malformed_reply", detail, charged=True)

    def _redacted(self, text: str) -> str:
        return redact(clean(text), self._key)[:_DETAIL_CHARACTERS]

    def _dropped(self, cause: BaseException) -> CallError:
        sent = type(cause).__name__ not in _UNSENT
        detail = self._redacted(f"{type(cause).__name__}: {cause}")
        return CallError("call", "dropped", detail, reached=sent, charged=sent)

    def _refused(
        self, status: int, text: str, headers: Mapping[str, str], sent: Mapping[str, Any]
    ) -> CallError:
        detail = self._redacted(f"{status} {text}")
        found = refusal(status, text, detail, self.role, sent)
        return replace(found, retry_after=retry_after(headers)) if found.scope == "call" else found


def retry_after(headers: Mapping[str, str], now: float | None = None) -> float | None:
    """Seconds that a reply's headers ask to wait: seconds or a date; None where they say nothing.

    Milliseconds (`retry-after-ms`) come first, as in the SDK.
    """
    for name, divisor in (("retry-after-ms", 1000.0), ("retry-after", 1.0)):
        try:
            seconds = float(headers.get(name, "")) / divisor
        except ValueError:
            continue
        return seconds if 0 <= seconds < float("inf") else None
    try:
        at = email.utils.parsedate_to_datetime(headers.get("retry-after", ""))
    except ValueError:
        return None
    return max(0.0, at.timestamp() - (time.time() if now is None else now))
