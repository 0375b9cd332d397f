"""One call to a server that speaks the OpenAI API, by the `openai` SDK, and what went wrong in it.

The SDK's own retries are off: they would be neither counted nor held against the budget, the rate
limits and the breaker, which see every attempt this way (`dispatch.py`).
"""

from __future__ import annotations

import asyncio
import email.utils
import json
import os
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from chatllama_pipeline.errors import ProviderError
from chatllama_pipeline.llm.money import likely_prompt_tokens
from chatllama_pipeline.llm.replies import clean, read_reply, redact
from chatllama_pipeline.llm.requests import LlmReply, LlmRequest
from chatllama_pipeline.settings import RoleSettings

RETRIED_STATUSES = (408, 409, 429)
CHAT, COMPLETIONS = "/chat/completions", "/completions"

_DETAIL_CHARACTERS = 2000
_TOO_LONG = re.compile(
    r"context.?(length|window|size)|maximum.{0,20}length|too (long|many tokens)|"
    r"exceeds?.{0,40}token",
    re.IGNORECASE,
)
# What a 400 about one of these says holds for every request.
_PARAMETERS = ("model", "temperature", "max_tokens", "max_completion_tokens", "seed")
_OMITTED_BY = {"max_completion_tokens": "max_tokens", "response_format": "json_schema"}


@dataclass
class CallError(Exception):
    """A call without a reply.

    `scope` is whom it concerns: `call` (ask again), `request` (asking again gives the same) or
    `provider` (every request meets it). `reached` says whether a server answered at all, `charged`
    whether the provider may have charged it nevertheless.
    """

    scope: str
    reason: str
    detail: str
    reached: bool = True
    charged: bool = False
    retry_after: float | None = None


def request_body(request: LlmRequest, role: RoleSettings) -> dict[str, Any]:
    """The JSON body of a request, in the role's style and without what it omits."""
    # OpenAI's newer models refuse max_tokens, many other servers know nothing else.
    longest = "max_completion_tokens" if role.is_openai and role.style == "chat" else "max_tokens"
    body: dict[str, Any] = {"model": role.model}
    if role.style == "completion":
        body["prompt"] = completion_prompt(request)
    else:
        body["messages"] = [
            {"role": message.role, "content": clean(message.content)}
            for message in request.messages
        ]
    if "temperature" not in role.omit:
        body["temperature"] = request.temperature
    if "max_tokens" not in role.omit:
        body[longest] = request.max_tokens
    if request.seed is not None and "seed" not in role.omit:
        body["seed"] = request.seed
    if request.json_schema is not None and role.style == "chat" and "json_schema" not in role.omit:
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


def read_key(role: RoleSettings) -> str:
    """The key of a role from its environment variable; "" where nobody wants one."""
    if role.provider != "openai" or role.api_key_env is None:
        return ""
    key = os.environ.get(role.api_key_env, "").strip()
    if not key:
        raise ProviderError(
            f"{role.key}: the environment variable {role.api_key_env} holds no key for "
            f"{role.base_url}: set it where the pipeline runs (for `make ui`, before it starts), "
            f"or name another with {role.key}.api_key_env"
        )
    return key


class OpenAiCaller:
    """Makes calls for a role. Use it within one event loop, as an async context manager."""

    def __init__(self, role: RoleSettings) -> None:
        import openai

        self.role = role
        self._key = read_key(role)
        self._openai = openai
        # The SDK wants some key; servers without one ignore it.
        self._client = openai.AsyncOpenAI(
            api_key=self._key or "none",
            base_url=role.base_url,
            max_retries=0,
            timeout=role.timeout,
        )
        if not role.is_openai:
            # The SDK reads them from the environment; they are nobody else's business.
            self._client.organization = self._client.project = None
        self._path = CHAT if role.style == "chat" else COMPLETIONS

    async def __aenter__(self) -> OpenAiCaller:
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self._client.close()

    async def __call__(self, request: LlmRequest) -> LlmReply:
        """Raises CallError."""
        body = request_body(request, self.role)
        data: Any = None
        try:
            # The SDK's timeout is for each read; a server that drips would hold a call for ever.
            async with asyncio.timeout(self.role.timeout):
                # `create` would transform each message and build its own records of the reply, at
                # a quarter of a call's CPU time.
                data = await self._client.post(self._path, cast_to=object, body=body)
            likely = likely_prompt_tokens(request)
            return read_reply(data, self.role.style, self.role.model, likely)
        except (TimeoutError, self._openai.APITimeoutError):
            detail = f"no reply within {self.role.timeout:g} s ({self.role.key}.timeout)"
            raise CallError("call", "timeout", detail, reached=False, charged=True) from None
        except self._openai.APIStatusError as error:
            raise self._refused(error) from None
        except self._openai.APIConnectionError as error:
            raise self._dropped(error) from None
        except json.JSONDecodeError as error:
            raise self._malformed(error, error.doc) from None
        except ValueError as error:
            raise self._malformed(error, json.dumps(data)) from None

    def _malformed(self, error: ValueError, told: str) -> CallError:
        detail = self._redacted(f"{error}: {told}")
        return CallError("call", "malformed_reply", detail, charged=True)

    def _redacted(self, text: str) -> str:
        return redact(clean(text), self._key)[:_DETAIL_CHARACTERS]

    def _dropped(self, error: Exception) -> CallError:
        cause = error.__cause__
        # By name: the SDK changes the library below it between versions.
        unconnected = type(cause).__name__ in ("ConnectError", "ConnectTimeout")
        detail = self._redacted(f"{type(cause).__name__}: {cause}" if cause else str(error))
        return CallError(
            "call", "dropped", detail, reached=not unconnected, charged=not unconnected
        )

    def _refused(self, error: Any) -> CallError:
        """What a 4xx or 5xx means."""
        status, code = int(error.status_code), str(error.code or "")
        detail = self._redacted(f"{status} {error.response.text}")
        if status in RETRIED_STATUSES or status >= 500:
            if code == "insufficient_quota":
                why = f"{self.role.base_url} says that your quota is used up: {detail}"
                return CallError("provider", "quota", f"{self.role.key}: {why}")
            reason = "rate_limited" if status == 429 else "server_error"
            wait = retry_after(error.response.headers)
            return CallError("call", reason, detail, retry_after=wait)
        if status in (401, 403, 404):
            return CallError("provider", "refused", self._refused_for_all(status, detail))
        if status == 413 or code == "context_length_exceeded" or _TOO_LONG.search(detail):
            return CallError("request", "prompt_too_long", detail)
        parameter = str(error.param or "")
        if parameter in _PARAMETERS or parameter.startswith("response_format"):
            parameter = parameter.partition(".")[0]
            omit = _OMITTED_BY.get(parameter, parameter)
            cure = f"set {self.role.key}.omit: [{omit}] to send none"
            why = f"{self.role.model} refuses {parameter}: {cure}. It said: {detail}"
            return CallError("provider", "refused", f"{self.role.key}: {why}")
        return CallError("request", "bad_request", detail)

    def _refused_for_all(self, status: int, detail: str) -> str:
        role = self.role
        if status == 404:
            cure = (
                f"{role.base_url} doesn't know the model {role.model!r} ({role.key}.model), or the "
                f"path of {role.style} calls: {role.base_url}/models lists its models, and "
                "base_url usually ends in /v1"
            )
        elif role.api_key_env is None:
            cure = f"{role.base_url} wants a key: name its variable with {role.key}.api_key_env"
        else:
            cure = f"{role.base_url} refuses the key in {role.api_key_env}, or the model to it"
        return f"{role.key}: {cure}. It said: {detail}"


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
