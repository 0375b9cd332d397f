"""Servers as they are: each product's way to answer and to refuse, and whose fault that is."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

import pytest

from chatllama_pipeline.errors import ProviderError
from chatllama_pipeline.llm.requests import LlmClient, LlmFailure, LlmReply, LlmRequest
from chatllama_pipeline.records import Message
from tests.llm.asking import ask, asks, texts
from tests.llm.openai_replies import JSON, Body
from tests.llm.openai_server import KEY, OpenAiServer

MakeClient = Callable[..., LlmClient]
Told = tuple[int, bytes, str | None, str]
SCHEMA = json.dumps({"type": "object", "properties": {"score": {"type": "number"}}})


def told(status: int, body: Any, kind: str = JSON) -> Told:
    text = body if isinstance(body, str) else json.dumps(body)
    return status, text.encode(), None, kind


def asked_for_score(text: str = "a") -> LlmRequest:
    return LlmRequest((Message("user", text),), 0.1, 40, seed=7, json_schema=SCHEMA)


def refusing(name: str, status: int, body: Any) -> Callable[[Body], Told | None]:
    """A product that refuses requests with that parameter, and answers others."""
    return lambda asked: told(status, body) if name in asked else None


# Out of money: product, status, body.
UNPAID = {
    "OpenRouter": (402, {"error": {"message": "Insufficient credits. Add more.", "code": 402}}),
    "DeepSeek": (402, {"error": {"message": "Insufficient Balance", "type": "unknown_error"}}),
    "OpenAI's code": (429, {"error": {"message": "No.", "code": "insufficient_quota"}}),
    "OpenAI's type": (
        429,
        {"error": {"message": "You exceeded it.", "type": "insufficient_quota", "code": None}},
    ),
    "OpenAI's billing": (
        400,
        {"error": {"message": "Your account is not active.", "code": "billing_not_active"}},
    ),
    "OpenRouter with 200": (200, {"error": {"message": "Insufficient credits", "code": 402}}),
}


@pytest.mark.parametrize("product", UNPAID)
def test_out_of_money_stops_the_run_and_keeps_what_was_paid_for(
    make_client: MakeClient, openai_server: OpenAiServer, product: str
) -> None:
    answered = iter(range(12))
    openai_server.behaviour.product = lambda body: (
        None if next(answered, None) is not None else told(*UNPAID[product])
    )
    with pytest.raises(ProviderError, match="wants to be paid") as stopped:
        make_client(concurrency=2).answer(asks(40))
    assert json.dumps(UNPAID[product][1]["error"]["message"])[1:-1] in str(stopped.value)
    assert len(openai_server.seen) <= 14
    # Bought some: the next run asks for the others by itself.
    openai_server.reset()
    again = make_client().answer(asks(40))
    assert sum(answer.cached for answer in again) == 12  # type: ignore[union-attr]
    assert len(openai_server.seen) == 28


# Parameters that products refuse in their own words: product, parameter sent, status, body.
REFUSED = {
    "DeepSeek": (
        "response_format",
        400,
        {
            "error": {
                "message": "This response_format type is unavailable now",
                "type": "invalid_request_error",
                "param": None,
                "code": "invalid_request_error",
            }
        },
    ),
    "LM Studio": ("response_format", 400, {"error": "'response_format.type' must be 'text'"}),
    "FastAPI": (
        "response_format",
        422,
        {
            "detail": [
                {
                    "type": "literal_error",
                    "loc": ["body", "response_format", "type"],
                    "msg": "Input should be 'text' or 'json_object'",
                }
            ]
        },
    ),
    "litellm": (
        "temperature",
        400,
        {
            "error": {
                "message": "litellm.UnsupportedParamsError: gpt-5 models (including gpt-5-codex) "
                "don't support temperature=0.1. Only temperature=1 is supported.",
                "type": "None",
                "param": None,
                "code": "400",
            }
        },
    ),
    "OpenAI's temperature": (
        "temperature",
        400,
        {
            "error": {
                "message": "Unsupported value: 'temperature' does not support 0.1 with this model.",
                "type": "invalid_request_error",
                "param": "temperature",
                "code": "unsupported_value",
            }
        },
    ),
    "Azure's max_tokens": (
        "max_tokens",
        400,
        {
            "error": {
                "message": "Unsupported parameter: 'max_tokens' is not supported with this model. "
                "Use 'max_completion_tokens' instead.",
                "type": "invalid_request_error",
                "param": "max_tokens",
                "code": "unsupported_parameter",
            }
        },
    ),
    "Mistral's seed": (
        "seed",
        422,
        {
            "object": "error",
            "message": {
                "detail": [
                    {"type": "extra_forbidden", "loc": ["body", "seed"], "msg": "Extra inputs"}
                ]
            },
        },
    ),
    "llama.cpp's grammar": (
        "response_format",
        500,
        {"error": {"code": 500, "message": "failed to parse grammar", "type": "server_error"}},
    ),
    "501": ("response_format", 501, {"error": {"message": "json_schema is not implemented"}}),
}


@pytest.mark.parametrize("product", REFUSED)
def test_a_refused_parameter_is_left_out_whatever_the_words_and_told_once(
    make_client: MakeClient, openai_server: OpenAiServer, product: str
) -> None:
    parameter, status, body = REFUSED[product]
    openai_server.behaviour.product = refusing(parameter, status, body)
    client = make_client(concurrency=2)
    assert texts(client.answer([asked_for_score(f"row {n}") for n in range(6)])) == [
        f"row {n}" for n in range(6)
    ]
    assert texts(client.answer([asked_for_score("later")])) == ["later"]
    refused = [seen for seen in openai_server.seen if parameter in seen.body]
    assert 1 <= len(refused) <= 2
    assert "max_completion_tokens" in openai_server.seen[-1].body or parameter != "max_tokens"
    [warning] = client.warnings()
    name = "json_schema" if parameter == "response_format" else parameter
    assert f"refuses {name} for loopback-1" in warning
    assert client.ledger().failed == 0


def test_a_value_out_of_bounds_names_the_setting(
    make_client: MakeClient, openai_server: OpenAiServer
) -> None:
    error = {"message": "max_tokens must be less than or equal to 8", "param": "max_tokens"}
    openai_server.behaviour.product = refusing("max_tokens", 400, {"error": error})
    with pytest.raises(
        ProviderError, match=r"refuses the value of max_tokens: set llm\.max_tokens"
    ):
        make_client().answer(asks(3))


def test_what_extra_body_sends_is_named_where_it_is_refused(
    make_client: MakeClient, openai_server: OpenAiServer
) -> None:
    error = {"message": "Unrecognized request argument supplied: top_q", "param": None}
    openai_server.behaviour.product = refusing("top_q", 400, {"error": error})
    with pytest.raises(ProviderError, match=r"take top_q out of llm\.extra_body"):
        make_client(extra_body={"top_q": 1}).answer(asks(3))


def test_many_equal_refusals_in_a_row_stop_the_run_later_too(
    make_client: MakeClient, openai_server: OpenAiServer
) -> None:
    answered = iter(range(10))
    numbers = iter(range(1000))
    openai_server.behaviour.product = lambda body: (
        None
        if next(answered, None) is not None
        else told(400, {"error": {"message": "No such thing.", "id": f"req-{next(numbers)}f3"}})
    )
    with pytest.raises(ProviderError, match=r"refuses every request\. It said: 400 .*No such"):
        make_client(concurrency=2).answer(asks(100))
    assert len(openai_server.seen) <= 10 + 22


def test_a_filtered_row_is_that_rows_fault_however_many_there_are(
    make_client: MakeClient, openai_server: OpenAiServer
) -> None:
    azure = {
        "error": {
            "message": "The response was filtered due to the prompt triggering Azure OpenAI's "
            "content management policy.",
            "code": "content_filter",
            "status": 400,
            "innererror": {"code": "ResponsibleAIPolicyViolation"},
        }
    }
    openai_server.behaviour.product = lambda body: (
        told(400, azure) if "row 29" not in json.dumps(body) else None
    )
    answers = make_client(concurrency=2).answer(asks(30))
    assert texts(answers) == ["content_filter"] * 29 + ["row 29"]


# Nobody is out of order by itself: product -> what it answers, and what is told.
BROKEN = {
    "choices null": (200, {"choices": None, "error": {"message": "No endpoints"}}, "No endpoints"),
    "choices empty": (200, {"choices": []}, "no first choice"),
    "null": (200, "null", "no list of choices"),
    "error with 200": (200, {"error": {"message": "Overloaded"}}, "Overloaded"),
    "503": (503, {"error": {"message": "Loading model"}}, "Loading model"),
    "nested": (200, '{"a":' * 100_000, "nested too deeply"),
}


@pytest.mark.parametrize("product", BROKEN)
def test_what_stays_out_of_order_is_told_with_what_it_said(
    make_client: MakeClient,
    openai_server: OpenAiServer,
    product: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("chatllama_pipeline.llm.dispatch._FIRST_WAIT", 0.001)
    monkeypatch.setattr("chatllama_pipeline.llm.limits._FIRST_REST", 0.001)
    status, body, said = BROKEN[product]
    openai_server.behaviour.product = lambda asked: told(status, body)
    with pytest.raises(ProviderError, match=r"stays out of order .*It said: ") as stopped:
        make_client(price="free").answer(asks(20))
    assert said in str(stopped.value)


# Another protocol: product, content type, body, and the cure.
STRANGE = {
    "SSE": ("text/event-stream", 'data: {"choices": [{"delta": {}}]}\n\ndata: [DONE]\n', "stream"),
    "SSE as JSON": (JSON, 'data: {"choices": []}\n\n', "extra_body: {stream: false}"),
    "a login page": ("text/html", "<html><title>Sign in</title></html>", "Sign in"),
    "HTML as JSON": (JSON, "<!doctype html><p>Sign in", "is base_url right"),
    "Ollama's root": ("text/plain", "Ollama is running", "Ollama is running"),
}


@pytest.mark.parametrize("product", STRANGE)
def test_another_protocol_stops_the_run_at_once_with_what_it_said(
    make_client: MakeClient, openai_server: OpenAiServer, product: str
) -> None:
    kind, body, said = STRANGE[product]
    openai_server.behaviour.product = lambda asked: told(200, body, kind)
    started = time.monotonic()
    with pytest.raises(ProviderError) as stopped:
        make_client(concurrency=2).answer(asks(20))
    assert said in str(stopped.value)
    assert len(openai_server.seen) <= 2
    assert time.monotonic() - started < 5


def test_a_model_of_the_responses_api_is_told_by_name(
    make_client: MakeClient, openai_server: OpenAiServer
) -> None:
    message = "This model is only supported in v1/responses and not in v1/chat/completions."
    openai_server.behaviour.product = lambda body: told(404, {"error": {"message": message}})
    with pytest.raises(ProviderError, match="loopback-1 is offered by the Responses API alone"):
        make_client().answer(asks(2))


def test_content_in_parts_is_a_reply_and_its_thoughts_are_none(
    make_client: MakeClient, openai_server: OpenAiServer
) -> None:
    parts = [{"type": "thinking", "thinking": [{"type": "text", "text": "5?"}]}]
    parts += [{"type": "text", "text": "4"}, {"type": "text", "text": ".5"}]
    openai_server.behaviour.message = {"content": parts}
    assert texts(make_client().answer([ask("a")])) == ["4.5"]
    openai_server.behaviour.message = {"content": [{"type": "refusal", "refusal": "No."}]}
    (declined,) = make_client().answer([ask("b")])
    assert isinstance(declined, LlmReply)
    assert (declined.text, declined.finish_reason) == ("No.", "refusal")


@pytest.mark.parametrize(
    "usage", [None, {}, {"prompt_tokens": 10**30, "completion_tokens": 10**30}, "none"]
)
def test_a_server_that_counts_no_tokens_or_too_many_is_counted_for(
    make_client: MakeClient, openai_server: OpenAiServer, usage: Any
) -> None:
    choice = {"message": {"content": "4"}, "finish_reason": "stop"}
    openai_server.behaviour.product = lambda body: told(200, {"choices": [choice], "usage": usage})
    client = make_client()
    assert texts(client.answer([ask("a")])) == ["4"]
    # "a" is a byte, and 4 tokens stand around it; "4" is one.
    assert (client.ledger().prompt_tokens, client.ledger().completion_tokens) == (5, 1)


def test_json_without_its_content_type_is_read(
    make_client: MakeClient, openai_server: OpenAiServer
) -> None:
    body = {"choices": [{"message": {"content": "4"}, "finish_reason": "stop"}]}
    openai_server.behaviour.product = lambda asked: told(200, body, "text/plain")
    assert texts(make_client().answer([ask("a")])) == ["4"]


@pytest.mark.parametrize(
    ("named", "warned"),
    [("qwen3:8b", True), ("loopback-1-2026-03-01", False), ("org/loopback-1", False)],
)
def test_an_answer_by_another_model_is_told_once(
    make_client: MakeClient, openai_server: OpenAiServer, named: str, warned: bool
) -> None:
    body = {"model": named, "choices": [{"message": {"content": "4"}, "finish_reason": "stop"}]}
    openai_server.behaviour.product = lambda asked: told(200, body)
    client = make_client()
    client.answer(asks(4))
    assert [f"answers as '{named}'" in warning for warning in client.warnings()] == [True] * warned


def test_azure_is_asked_by_its_deployment_its_version_and_its_key_header(
    make_client: MakeClient, openai_server: OpenAiServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AZURE_OPENAI_AD_TOKEN", "nobody-elses-business")
    root = "/openai/deployments/mine"
    openai_server.behaviour.root = root
    base = openai_server.url.replace("/v1", root)
    client = make_client(base_url=f"{base}/chat/completions?api-version=2024-10-21")
    assert texts(client.answer([ask("a")])) == ["a"]
    [seen] = openai_server.seen
    assert seen.url == f"{root}/chat/completions?api-version=2024-10-21"
    assert seen.headers[b"api-key"] == KEY.encode()
    assert b"authorization" not in seen.headers


def test_a_query_goes_with_every_call(make_client: MakeClient, openai_server: OpenAiServer) -> None:
    make_client(base_url=f"{openai_server.url}/?tenant=a%20b").answer([ask("a")])
    assert openai_server.seen[0].url == "/v1/chat/completions?tenant=a+b"


@pytest.mark.parametrize("fault", ["status_408", "rate_limited"])
def test_rows_that_failed_for_a_passing_reason_are_asked_by_the_next_run(
    make_client: MakeClient,
    openai_server: OpenAiServer,
    fault: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("chatllama_pipeline.llm.dispatch._FIRST_WAIT", 0.001)
    monkeypatch.setattr("chatllama_pipeline.llm.dispatch.MOST_ATTEMPTS", 1)
    openai_server.behaviour.retry_after = "0.001"
    openai_server.behaviour.script.extend(["ok", fault])
    with pytest.raises(ProviderError, match=r"1 of 4 rows are still to ask \(\w+ 1\): run again"):
        make_client(concurrency=1).answer([*asks(4)])
    openai_server.reset()
    assert texts(make_client().answer(asks(4))) == [f"row {n}" for n in range(4)]
    assert len(openai_server.seen) == 1


def test_a_row_that_fails_in_three_runs_is_set_aside(
    make_client: MakeClient, openai_server: OpenAiServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("chatllama_pipeline.llm.dispatch.MOST_ATTEMPTS", 1)
    openai_server.behaviour.product = lambda body: (
        told(500, {"error": {"message": "Crashed."}}) if "row 1" in json.dumps(body) else None
    )
    for _ in range(2):
        with pytest.raises(ProviderError, match="still to ask"):
            make_client().answer(asks(3))
    first, failed, last = make_client().answer(asks(3))
    assert texts([first, last]) == ["row 0", "row 2"]
    assert isinstance(failed, LlmFailure)
    assert (failed.reason, failed.retryable) == ("server_error", False)
    assert "Crashed." in failed.detail


@pytest.mark.parametrize(
    ("environment", "said"),
    [
        ({"ALL_PROXY": "socks5://127.0.0.1:9"}, "SSL_CERT_FILE|ALL_PROXY"),
        ({"SSL_CERT_FILE": "/nowhere/ca.pem"}, "SSL_CERT_FILE|does not answer"),
    ],
)
def test_an_environment_that_no_client_can_be_made_in_is_told(
    make_client: MakeClient,
    openai_server: OpenAiServer,
    monkeypatch: pytest.MonkeyPatch,
    environment: dict[str, str],
    said: str,
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
        monkeypatch.delenv("NO_PROXY", raising=False)
        monkeypatch.delenv("no_proxy", raising=False)
    with pytest.raises(ProviderError, match=said):
        make_client().answer(asks(2))


@pytest.mark.parametrize(
    ("key", "said"),
    [
        ("sk-abc\u201d", "quotation marks"),
        ('"sk-abc"', "quotation marks"),
        ("sk-abc\ndefsecret", "a line break or a space within"),
        ("sk abc", "a line break or a space within"),
        ("sk-\u00e4bc", "characters that are not printable ASCII"),
    ],
)
def test_what_is_no_key_is_refused_when_it_is_read_and_not_echoed(
    make_client: MakeClient,
    openai_server: OpenAiServer,
    monkeypatch: pytest.MonkeyPatch,
    key: str,
    said: str,
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", key)
    with pytest.raises(ProviderError, match=f"OPENAI_API_KEY holds {said}") as refused:
        make_client()
    assert "abc" not in str(refused.value) and "secret" not in str(refused.value)
    assert openai_server.seen == []
