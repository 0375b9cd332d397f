"""Servers as they are: each product's way to answer and to refuse, and whose fault that is."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from chatllama_pipeline.errors import ProviderError
from chatllama_pipeline.llm.client.requests import LlmClient, LlmReply, LlmRequest
from chatllama_pipeline.records import Message
from tests.llm.loopback.asking import ask, asks, texts
from tests.llm.loopback.replies import JSON, Body, Told, told
from tests.llm.loopback.server import OpenAiServer

MakeClient = Callable[..., LlmClient]
SCHEMA = json.dumps({"type": "object", "properties": {"score": {"type": "number"}}})


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
    monkeypatch.setattr("chatllama_pipeline.llm.client.dispatch._FIRST_WAIT", 0.001)
    monkeypatch.setattr("chatllama_pipeline.llm.client.limits._FIRST_REST", 0.001)
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
    client = make_client(concurrency=2)
    with pytest.raises(ProviderError) as stopped:
        client.answer(asks(20))
    assert said in str(stopped.value)
    assert len(openai_server.seen) <= 2
    assert client.ledger().retried == 0


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
