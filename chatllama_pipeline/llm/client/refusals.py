"""What a server's refusal means: whose fault it is, what it said, and the cure.

Servers word the same refusal in many ways: OpenAI names the parameter in `param`, DeepSeek and
LM Studio in a sentence, FastAPI (vLLM, litellm) in `detail[].loc`; codes stand in `code` or `type`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from chatllama_pipeline.settings import RoleSettings

RETRIED_STATUSES = (408, 409, 425, 429)
# Settings that the client can go without or ask otherwise, and how servers name them.
PARAMETERS = {
    "json_schema": r"response_format|json_schema|json schema|guided|grammar|structured[ _]outputs?",
    "max_completion_tokens": "max_completion_tokens",
    "max_tokens": "max_tokens",
    "temperature": "temperature",
    "seed": "seed",
}

_TOO_LONG = re.compile(
    r"context.?(length|window|size)|maximum.{0,20}length|too (long|many tokens)|"
    r"exceeds?.{0,40}token|exceed_context",
    re.IGNORECASE,
)
# By code or type; their sentences are also said of limits that pass within a minute.
_UNPAID_CODES = {
    *("insufficient_quota", "billing_not_active", "billing_hard_limit_reached", "payment_required"),
    *("insufficient_balance", "insufficient_credits", "credit_balance_too_low", "account_inactive"),
    *("account_deactivated", "access_terminated"),
}
_UNPAID = re.compile(
    r"insufficient (?:balance|credit|fund|quota)|credit balance is too low|out of credits?|"
    r"billing (?:is not|not) active|billing hard limit|not active, please check your billing",
    re.IGNORECASE,
)
_FILTERED_CODES = {"content_filter", "responsibleaipolicyviolation", "content_policy_violation"}
_FILTERED = re.compile(
    r"content (?:management )?policy|content filter|input was flagged|flagged (?:as|by|for)",
    re.IGNORECASE,
)
_OTHER_API = re.compile(r"v1/responses|responses api|only supported in .{0,20}responses", re.I)
_REFUSES = re.compile(
    r"(?:not|n't) (?:support|permit|allow|valid|available|recogni[sz]ed|implemented|work)|"
    r"un(?:supported|available|recogni[sz]ed|known|expected)|invalid|must be|should be|"
    r"extra inputs|deprecated|instead|fail|only .{0,30}support|error",
    re.IGNORECASE,
)
_UNSUPPORTED = re.compile(
    r"not support|n't support|unsupported|unrecogni|unknown|extra inputs", re.I
)
_OUT_OF_BOUNDS = re.compile(
    r"between|at most|at least|less than|greater than|too (?:large|high|low)|range|[<>]=?", re.I
)


@dataclass
class CallError(Exception):
    """A call without a reply.

    `scope` is whom it concerns: `call` (ask again), `request` (asking again gives the same),
    `provider` (every request meets it), `protocol` (every request, unless one was answered before)
    or `parameter` (every request that sends `parameter`). `reached` says whether a server answered
    at all, `charged` whether the provider may have charged it nevertheless.
    """

    scope: str
    reason: str
    detail: str
    reached: bool = True
    charged: bool = False
    retry_after: float | None = None
    parameter: str = ""


@dataclass(frozen=True)
class Said:
    """An error body: its sentence, its codes and types in small letters, and what it points at."""

    message: str
    codes: frozenset[str]
    parameters: tuple[str, ...]


def read_error(text: str) -> Said:
    """What an error's body says, in whichever of the shapes that servers send."""
    try:
        body = json.loads(text)
    except (ValueError, RecursionError):
        return Said(text, frozenset(), ())
    found = [*_errors(body)]
    messages = [e[key] for e in found for key in ("message", "msg") if isinstance(e.get(key), str)]
    codes = {
        str(error[key]).lower().replace(" ", "_")
        for error in found
        for key in ("code", "type", "status")
        if isinstance(error.get(key), str | int)
    }
    parameters = [str(error["param"]) for error in found if error.get("param")]
    parameters += [str(error["loc"][1]) for error in found if _points(error.get("loc"))]
    return Said("; ".join(messages) or text, frozenset(codes), tuple(parameters))


def error_status(body: Mapping[str, Any]) -> int:
    """The status that an error in a body of status 200 stands for; 500 where it says none."""
    error = body.get("error")
    code = error.get("code") if isinstance(error, dict) else None
    return int(str(code)) if re.fullmatch(r"[45]\d\d", str(code)) else 500


def refusal(
    status: int, text: str, detail: str, role: RoleSettings, sent: Mapping[str, Any]
) -> CallError:
    """What an error of that status and body means for a request whose body was `sent`.

    `detail` is what was said, redacted, as people are told it.
    """
    said = read_error(text)
    if (
        status == 402
        or said.codes & _UNPAID_CODES
        or (status < 429 and _UNPAID.search(said.message))
    ):
        why = (
            f"{role.base_url} wants to be paid: your credit or quota is used up, or billing is off"
        )
        cure = "mend that with the provider and run again; all that was answered is kept"
        return _for_all(role, f"{why}. It said: {detail}. {cure}", "quota")
    if said.codes & _FILTERED_CODES or (status in (400, 403) and _FILTERED.search(said.message)):
        return CallError("request", "content_filter", detail)
    if status < 500 and status not in RETRIED_STATUSES:
        if _OTHER_API.search(said.message):
            cure = f"{role.model} is offered by the Responses API alone; name a chat model"
            return _for_all(role, f"{cure} ({role.key}.model). It said: {detail}")
        if status in (400, 404) and role.style == "chat" and "not a chat model" in said.message:
            cure = f"{role.model} only completes texts: set {role.key}.style: completion"
            return _for_all(role, f"{cure}. It said: {detail}")
        if status in (401, 403, 404, 405) or 300 <= status < 400:
            return _for_all(role, f"{_cure(status, role)}. It said: {detail}")
        if status == 413 or "context_length_exceeded" in said.codes or _TOO_LONG.search(text):
            return CallError("request", "prompt_too_long", detail)
    if status not in RETRIED_STATUSES:
        named = _parameter(said, role, sent, broken=status >= 500)
        if named is not None:
            return _of_parameter(named, said, detail, role)
    if status in RETRIED_STATUSES or status >= 500:
        reason = "rate_limited" if status == 429 else "server_error"
        return CallError("call", reason, detail)
    return CallError("request", "bad_request", detail)


def told_of_parameter(parameter: str, detail: str, role: RoleSettings) -> CallError:
    """The error of a parameter that is refused and can't be left out by itself."""
    omit = "max_tokens" if parameter == "max_completion_tokens" else parameter
    cure = f"set {role.key}.omit: [{omit}] to send none"
    return _for_all(role, f"{role.model} refuses {parameter}: {cure}. It said: {detail}")


def _for_all(role: RoleSettings, told: str, reason: str = "refused") -> CallError:
    return CallError("provider", reason, f"{role.key}: {told}")


def _of_parameter(named: str, said: Said, detail: str, role: RoleSettings) -> CallError:
    if named == "model":
        return _for_all(role, f"{_cure(404, role)}. It said: {detail}")
    if named not in PARAMETERS:
        cure = f"take {named} out of {role.key}.extra_body"
        return _for_all(role, f"{role.model} refuses {named}: {cure}. It said: {detail}")
    bounded = _OUT_OF_BOUNDS.search(said.message) and not _UNSUPPORTED.search(said.message)
    if bounded and named != "json_schema":
        setting = named.replace("_completion", "")
        cure = f"set {role.key}.{setting} to what it allows"
        return _for_all(
            role, f"{role.model} refuses the value of {named}: {cure}. It said: {detail}"
        )
    return CallError("parameter", "refused", detail, parameter=named)


def _parameter(said: Said, role: RoleSettings, sent: Mapping[str, Any], broken: bool) -> str | None:
    """The parameter that is refused, of those sent; a server that breaks does so by a schema."""
    present = {"json_schema" if name == "response_format" else name for name in sent}
    for pointed in said.parameters:
        name = re.split(r"[.\[]", pointed)[0]
        name = "json_schema" if name == "response_format" else name
        if name in present and (name in PARAMETERS or name == "model" or name in role.extra_body):
            return name
    if not _REFUSES.search(said.message):
        return None
    for name, pattern in PARAMETERS.items():
        if broken and name != "json_schema":
            continue
        if name in present and re.search(rf"\b(?:{pattern})", said.message, re.IGNORECASE):
            return None if name in role.extra_body else name
    for name in role.extra_body:
        if not broken and re.search(rf"\b{re.escape(name)}\b", said.message):
            return name
    return None


def _cure(status: int, role: RoleSettings) -> str:
    if status not in (401, 403):
        return (
            f"{role.base_url} doesn't know the model {role.model!r} ({role.key}.model), or the "
            f"path of {role.style} calls: {role.models_url} lists its models, and "
            "base_url usually ends in /v1"
        )
    if role.api_key_env is None:
        return f"{role.base_url} wants a key: name its variable with {role.key}.api_key_env"
    return f"{role.base_url} refuses the key in {role.api_key_env}, or the model to it"


def _errors(body: Any) -> Iterator[dict[str, Any]]:
    """The objects of a body that may hold an error's message, code or parameter."""
    if isinstance(body, list):
        for inner in body[:20]:
            yield from _errors(inner)
    elif isinstance(body, str):
        yield {"message": body}
    elif isinstance(body, dict):
        inner = [body[key] for key in ("error", "detail", "innererror", "errors") if body.get(key)]
        yield body
        for one in inner:
            yield from _errors(one)


def _points(loc: Any) -> bool:
    return isinstance(loc, list) and len(loc) > 1 and loc[0] == "body"
