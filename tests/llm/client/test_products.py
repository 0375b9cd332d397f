"""Each server of the docs' table, asked as it says there and answering as that product does."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import pytest
import yaml

from chatllama_pipeline.llm.client.requests import LlmClient, LlmFailure, LlmRequest
from chatllama_pipeline.records import Message
from tests.llm.loopback.asking import ask, asks, texts
from tests.llm.loopback.replies import Body, Told, completion, told
from tests.llm.loopback.server import KEY, OpenAiServer

MakeClient = Callable[..., LlmClient]
PAGE = Path(__file__).parents[3] / "docs/making/llms.md"
SCHEMA = json.dumps({"type": "object", "properties": {"score": {"type": "number"}}})


def configs() -> dict[str, dict[str, Any]]:
    """Product -> keys under `llm`, as the docs' table of servers has them."""
    table = PAGE.read_text("utf-8").partition("| server | under `llm`")[2].partition("\n\n")[0]
    found = {}
    for line in table.splitlines()[2:]:
        product, keys = (cell.strip() for cell in line.strip("|").split("|"))
        found[product] = {}
        for code in re.findall(r"`([^`]+)`", keys):
            found[product] |= yaml.safe_load(code + (" mine" if code.endswith(":") else ""))
    return found


CONFIGS = configs()


class Product:
    """Answers in a product's shapes; what it refuses it says in its words."""

    def __init__(self, server: OpenAiServer, model: str) -> None:
        self.server, self.model = server, model
        self.calls = 0

    def good(self, body: Body, **changed: Any) -> Body:
        return {**completion("/chat/completions", body, self.server.behaviour), **changed}

    def vllm(self, body: Body) -> Told:
        reply = self.good(body, prompt_logprobs=None, kv_transfer_params=None)
        reply["choices"][0] |= {"stop_reason": None}
        reply["choices"][0]["message"] |= {"reasoning_content": "Hm.", "tool_calls": []}
        if "word " * 50 in json.dumps(body):
            message = "This model's maximum context length is 64 tokens. However, you requested 99."
            shape = {"object": "error", "message": message, "type": "BadRequestError"}
            return told(400, {**shape, "param": None, "code": 400})
        return told(200, reply)

    def ollama(self, body: Body) -> Told:
        return told(200, self.good(body, system_fingerprint="fp_ollama"))

    def llama_cpp(self, body: Body) -> Told:
        self.calls += 1
        if self.calls == 1:
            error = {"code": 503, "message": "Loading model", "type": "unavailable_error"}
            return told(503, {"error": error})
        return told(200, self.good(body, model="gpt-3.5-turbo", timings={"prompt_n": 1}))

    def lm_studio(self, body: Body) -> Told:
        if "response_format" in body:
            return told(400, {"error": "'response_format.type' must be 'json_schema' or 'text'"})
        return told(200, self.good(body, stats={}))

    def deepseek(self, body: Body) -> Told:
        if "response_format" in body:
            message = "This response_format type is unavailable now"
            return told(400, {"error": {"message": message, "type": "invalid_request_error"}})
        reply = self.good(body)
        reply["choices"][0]["message"]["reasoning_content"] = "Let me see."
        return told(200, reply)

    def openrouter(self, body: Body) -> Told:
        self.calls += 1
        if self.calls == 1:
            return told(200, {"error": {"message": "Provider returned error", "code": 502}})
        # It keeps the connection alive with white space.
        reply = self.good(body, provider="Somebody", model=f"{self.model}-2026-01-01")
        return told(200, "\n         \n" + json.dumps(reply))

    def litellm(self, body: Body) -> Told:
        if "temperature" in body:
            message = "litellm.UnsupportedParamsError: gpt-5 models don't support temperature=0.1."
            error = {"message": message, "type": "None", "param": None, "code": "400"}
            return told(400, {"error": error})
        return told(200, self.good(body, model="gpt-5-2026-01-01"))

    def azure(self, body: Body) -> Told:
        if "max_tokens" in body:
            message = "Unsupported parameter: 'max_tokens' is not supported with this model."
            error = {"message": message, "param": "max_tokens", "code": "unsupported_parameter"}
            return told(400, {"error": error})
        if "forbidden" in json.dumps(body):
            message = "The response was filtered"
            return told(400, {"error": {"message": message, "code": "content_filter"}})
        reply = self.good(body, prompt_filter_results=[{"prompt_index": 0}], model="gpt-4o-2024")
        reply["choices"][0]["content_filter_results"] = {}
        return told(200, reply)


# Product -> what is told of it: a part of each warning.
WARNED = {
    "vLLM": [],
    "Ollama": [],
    "llama.cpp": ["answers as 'gpt-3.5-turbo'"],
    "LM Studio": [],
    "DeepSeek": ["refuses json_schema"],
    "OpenRouter": [],
    "litellm": ["refuses temperature", "answers as 'gpt-5-2026-01-01'"],
    "Azure": ["max_completion_tokens is sent instead", "answers as 'gpt-4o-2024'"],
}


@pytest.fixture
def product_client(
    make_client: MakeClient, openai_server: OpenAiServer, monkeypatch: pytest.MonkeyPatch
) -> Callable[[str], LlmClient]:
    """Opens a client by the docs' config of a product, which then answers at the server."""

    def opened(product: str) -> LlmClient:
        config = {"api_key_env": None, **CONFIGS[product]}
        parts = urlsplit(config["base_url"])
        here = urlsplit(openai_server.url)
        config["base_url"] = urlunsplit(parts._replace(scheme="http", netloc=here.netloc))
        answers = Product(openai_server, config["model"])
        behaviour = openai_server.behaviour
        behaviour.root, behaviour.models = parts.path, [config["model"]]
        behaviour.any_key = config["api_key_env"] is None
        behaviour.product = getattr(answers, product.lower().replace(".", "_").replace(" ", "_"))
        if config["api_key_env"]:
            monkeypatch.delenv("OPENAI_API_KEY")
            monkeypatch.setenv(config["api_key_env"], KEY)
        return make_client(**config)

    return opened


def test_the_table_names_the_products_that_are_tried() -> None:
    assert list(CONFIGS) == list(WARNED)


@pytest.mark.parametrize("product", WARNED)
def test_a_server_is_asked_as_the_docs_say_and_its_answers_are_read(
    product_client: Callable[[str], LlmClient], openai_server: OpenAiServer, product: str
) -> None:
    client = product_client(product)
    requests = [
        LlmRequest((Message("user", f"row {n}"),), 0.1, 40, seed=7, json_schema=SCHEMA)
        for n in range(4)
    ]
    assert texts(client.answer(requests)) == [f"row {n}" for n in range(4)]
    warnings = client.warnings()
    assert len(warnings) == len(WARNED[product])
    for part, warning in zip(WARNED[product], warnings, strict=True):
        assert part in warning
    wants_key = "api_key_env" in CONFIGS[product]
    assert {seen.key for seen in openai_server.seen} == {KEY if wants_key else "none"}


def test_vllms_and_azures_refusals_of_a_row_are_that_rows_fault(
    product_client: Callable[[str], LlmClient],
) -> None:
    too_long, fits = product_client("vLLM").answer([ask("word " * 60), ask("a")])
    assert isinstance(too_long, LlmFailure)
    assert (too_long.reason, too_long.retryable) == ("prompt_too_long", False)
    assert texts([fits]) == ["a"]
    filtered, allowed = product_client("Azure").answer([ask("forbidden"), ask("b")])
    assert texts([filtered, allowed]) == ["content_filter", "b"]


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
