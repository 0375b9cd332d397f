from __future__ import annotations

import socket
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import openai
import pytest

from chatllama_pipeline.serving.api.access.place import KEY_VARIABLE, Limits
from chatllama_pipeline.serving.wanted import Wanted
from chatllama_pipeline.store.manifests import Version
from chatllama_pipeline.store.versions import Store
from tests.serving.served import NAME, Served, serving

Released = tuple[Store, Version, Version]


def refused(answer: tuple[int, dict[str, str], Any], status: int, *parts: str) -> dict[str, Any]:
    """The error of an answer in OpenAI's shape, with that status and these parts of a message."""
    assert answer[0] == status, answer
    error: dict[str, Any] = answer[2]["error"]
    assert set(error) == {"message", "type", "param", "code"}
    for part in parts:
        assert part in error["message"]
    return error


def test_a_prompt_beyond_the_context_is_told_as_openai_tells_it(served: Served) -> None:
    error = refused(served.chat("x" * 130), 400, "maximum context length is 128 tokens")
    assert error["code"] == "context_length_exceeded"
    assert error["type"] == "invalid_request_error"
    refused(served.chat("x" * 125), 400, "128 tokens, which leaves none for a reply")
    status, _, body = served.chat("x" * 120)
    assert status == 200  # what is left is less than a usual reply
    assert body["usage"]["completion_tokens"] <= 5
    status, _, body = served.chat("alpha", max_tokens=1000, temperature=2, seed=1)
    assert body["usage"]["total_tokens"] <= 128
    client = openai.OpenAI(base_url=served.url, api_key="none", max_retries=0)
    with pytest.raises(openai.BadRequestError) as caught:
        client.completions.create(model=NAME, prompt="x" * 130)
    assert caught.value.code == "context_length_exceeded"


def test_an_unknown_model_is_told_with_those_there_are(served: Served) -> None:
    for model in ("gpt-4", f"{NAME}@0123", f"other@{served.versions.speakers[0].id}"):
        body = {"model": model, "messages": [{"role": "user", "content": "alpha"}]}
        answer = served.ask("/v1/chat/completions", body)
        assert refused(answer, 404, model, NAME)["code"] == "model_not_found"
    refused(served.ask("/v1/models/gpt-4"), 404, "gpt-4")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("n", 2),
        ("logprobs", True),
        ("top_logprobs", 3),
        ("tools", [{"type": "function", "function": {"name": "f"}}]),
        ("tool_choice", "required"),
        ("functions", [{"name": "f"}]),
        ("response_format", {"type": "json_object"}),
        ("logit_bias", {"5": 10}),
        ("frequency_penalty", 0.5),
        ("presence_penalty", -1),
        ("modalities", ["text", "audio"]),
        ("store", True),
    ],
)
def test_what_is_not_supported_is_told_and_not_ignored(
    served: Served, key: str, value: Any
) -> None:
    error = refused(served.chat("alpha", **{key: value}), 400, f"{key}: ")
    assert (error["code"], error["param"]) == ("unsupported_parameter", key)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("n", 2),
        ("n", True),
        ("best_of", 3),
        # A number of them here: none but the chosen token's own, which isn't told either.
        ("logprobs", 0),
        ("echo", True),
        ("suffix", "the end"),
        ("logit_bias", {"5": 10}),
        ("presence_penalty", 0.5),
        ("tools", [{}]),
    ],
)
def test_nor_are_they_where_a_text_is_completed(served: Served, key: str, value: Any) -> None:
    answer = served.ask("/v1/completions", {"model": NAME, "prompt": "alpha", key: value})
    error = refused(answer, 400, f"{key}: ")
    assert (error["code"], error["param"]) == ("unsupported_parameter", key)


def test_what_asks_for_nothing_is_taken(served: Served) -> None:
    nothing = {
        "n": 1,
        "logprobs": False,
        "tools": [],
        "tool_choice": "none",
        "response_format": {"type": "text"},
        "frequency_penalty": 0,
        "presence_penalty": 0.0,
        "logit_bias": None,
        "user": "u-1",
        "temperature": None,
        "stop": [],
    }
    assert served.chat("alpha", **nothing)[0] == 200
    options = {"include_usage": True, "include_obfuscation": False}
    assert served.chat("alpha", stream=True, stream_options=options)[0] == 200


@pytest.mark.parametrize(
    "more",
    [
        {"model": "\ud800"},
        {"\ud800": 1},
        {"messages": [{"role": "\ud800", "content": "alpha"}]},
        {"messages": [{"role": "user", "content": "alpha", "\ud800": 1}]},
        {"messages": [{"role": "user", "content": [{"type": "\ud800"}]}]},
        {"generation_config": {"\ud800": 1}},
    ],
)
def test_half_a_character_is_refused_wherever_it_stands(
    served: Served, more: dict[str, Any]
) -> None:
    status, _, told = served.chat("alpha", **more)
    assert status in (400, 404)
    assert set(told["error"]) == {"message", "type", "param", "code"}


@pytest.mark.parametrize(
    ("more", "told"),
    [
        ({"temperature": -1}, "temperature: "),
        ({"temperature": "hot"}, "temperature: "),
        ({"temperature": True}, "temperature: "),
        ({"temperature": 1e999}, "not JSON"),
        ({"top_p": 0}, "top_p: "),
        ({"max_tokens": 0}, "max_tokens: "),
        ({"max_tokens": 1.5}, "max_tokens: "),
        ({"max_tokens": 4, "max_completion_tokens": 5}, "differ"),
        ({"stop": ["a"] * 5}, "stop: give up to 4"),
        ({"stop": ""}, "none of them empty"),
        ({"stop": ["a", ""]}, "none of them empty"),
        ({"stop": 5}, "stop: must be a text, or a list of texts"),
        ({"stop": ["\ud800"]}, "stop: holds half a character"),
        ({"stream": "yes"}, "stream: "),
        ({"stream_options": {"include_usage": True}}, "stream_options: is for streams alone"),
        ({"tempreature": 1}, "tempreature: there is no such key; did you mean temperature?"),
        ({"seed": -1}, "seed: "),
        ({"generation_config": "{"}, "generation_config: must be a GenerationConfig as JSON"),
        ({"generation_config": {"num_beams": 4}}, "generation_config.num_beams: has no effect"),
        ({"generation_config": {"max_new_tokens": 0}}, "max_tokens: "),
        ({"generation_config": '{"do_sample": true, "temperature": NaN}'}, "temperature: "),
        ({"generation_config": '{"do_sample": true, "top_p": Infinity}'}, "top_p: "),
        ({"temperature": "NaN"}, "temperature: "),
        ({"seed": 2**64}, "seed: "),
        ({"messages": None}, "messages: "),
        ({"messages": [None]}, "messages"),
        ({"stop": [None]}, "stop: must be a text, or a list of texts"),
        ({"stream_options": {"include_obfuscation": True}, "stream": True}, "include_obfuscation"),
        ({"stream_options": {"include_usage": 1}, "stream": True}, "stream_options"),
        ({"model": ["tiny"]}, "model: "),
        ({"messages": []}, "the last message must be the user's"),
        ({"messages": "alpha"}, "messages: "),
        ({"messages": [{"role": "wizard", "content": "x"}]}, "messages[0].role: 'wizard'"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "calls no tools"),
        ({"messages": [{"role": "user"}]}, "messages[0].content: must be a text"),
        ({"messages": [{"role": "user", "content": "\ud800"}]}, "half a character"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]},
            "reads text alone, and no part of type image_url",
        ),
        (
            {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]},
            "the last message must be the user's",
        ),
        (
            {"messages": [{"role": "user", "content": "a"}, {"role": "system", "content": "b"}]},
            "messages[1]: a system message can only be the first",
        ),
    ],
)
def test_malformed_requests_are_told_what_is_wrong(
    served: Served, more: dict[str, Any], told: str
) -> None:
    refused(served.chat("alpha", **more), 400, told)


@pytest.mark.parametrize(
    ("body", "told"),
    [
        (b'{"model": "tiny", "temperature": NaN, "messages": []}', "NaN is no number"),
        (b'{"model": "tiny", "top_p": -Infinity, "messages": []}', "-Infinity is no number"),
        (b'{"model": "tiny", ', "the body is not JSON"),
        (b"[1]", "must be a JSON object"),
        (b"\xff\xfe", "the body is not JSON"),
        (b"[" * 100_000, "the body is not JSON"),
        (b"", "the body is not JSON"),
        (b'{"model": "tiny", "seed": %s}' % (b"9" * 5000), "value has 5000 digits"),
        (b'{"model": "tiny", "seed": 1, "seed": 2}', "the key seed stands twice"),
        (b'{"model": "tiny"}', "messages: field required"),
    ],
)
def test_bodies_that_are_no_request_are_told(served: Served, body: bytes, told: str) -> None:
    refused(served.ask("/v1/chat/completions", body), 400, told)


def test_an_empty_prompt_and_several_are_refused(served: Served) -> None:
    refused(served.ask("/v1/completions", {"model": NAME, "prompt": ""}), 400, "prompt is empty")
    several = {"model": NAME, "prompt": ["a", "b"]}
    refused(served.ask("/v1/completions", several), 400, "one prompt to a request", "are 2")
    for ids in ([1, 2, 3], [[1, 2, 3]], 5):
        answer = served.ask("/v1/completions", {"model": NAME, "prompt": ids})
        assert refused(answer, 400, "prompt: must be a text, or a list of")["param"] == "prompt"


def test_other_kinds_of_bodies_addresses_and_methods_are_refused(served: Served) -> None:
    plain = {"content-type": "text/plain"}
    refused(served.ask("/v1/chat/completions", b"{}", plain), 415, "application/json")
    packed = {"content-encoding": "gzip"}
    refused(
        served.ask("/v1/chat/completions", b"\x1f\x8b", packed), 415, "is 'gzip': send the body"
    )
    for name in ({}, {"model": 5}):
        refused(served.ask("/load_model", name), 400, "model: must be the name of one")
    refused(served.ask("/v1/embeddings", {}), 404, "no such address")
    for path, methods in [
        ("/v1/chat/completions", "POST"),
        ("/v1/models", "GET, HEAD"),
        ("/v1/feedback", "DELETE, GET, HEAD, POST"),
    ]:
        answer = served.ask(path, None, None, "PUT")
        refused(answer, 405, f"PUT {path}: the address takes {methods} alone")
        assert answer[1]["allow"] == methods


def test_pages_of_other_origins_may_not_ask_unless_it_is_said(
    served: Served, released: Released
) -> None:
    page = {"origin": "http://page.example"}
    preflight = page | {"access-control-request-method": "POST"}
    answer = served.ask("/v1/chat/completions", None, preflight, "OPTIONS")
    assert "access-control-allow-origin" not in answer[1]
    assert "access-control-allow-origin" not in served.ask("/v1/models", None, page)[1]
    refused(served.ask("/v1/models", None, {"host": "page.example"}), 421, "page.example")
    with socket.create_connection(("127.0.0.1", served.port), timeout=10) as one:
        one.sendall(b"GET /health HTTP/1.1\r\nhost: localhost\r\nhost: page.example\r\n\r\n")
        assert one.recv(4096).startswith(b"HTTP/1.1 421 ")
    with serving([Wanted(released[1], 1.0)], cors=("http://page.example",)) as open_to_page:
        answer = open_to_page.ask("/v1/chat/completions", None, preflight, "OPTIONS")
        assert answer[0] == 200
        assert answer[1]["access-control-allow-origin"] == "http://page.example"


def test_a_key_that_is_missing_or_wrong_is_refused(
    released: Released, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(KEY_VARIABLE, "s3cret-\u00e4")
    with serving([Wanted(released[1], 1.0)]) as locked:
        for path in ("/v1/models", "/metrics", "/v1/nothing"):
            answer = locked.ask(path)
            assert refused(answer, 401, "an API key is missing")["code"] == "invalid_api_key"
            wrong = {"authorization": "Bearer s3cret"}
            refused(locked.ask(path, None, wrong), 401, "the API key is wrong")
        basic = {"authorization": "Basic s3cret"}
        refused(locked.ask("/v1/models", None, basic), 401, "the API key is wrong")
        assert locked.ask("/health")[0] == 200
        right = {"authorization": "bearer s3cret-\u00e4".encode().decode("latin-1")}
        assert locked.ask("/v1/models", None, right)[0] == 200


def test_beyond_what_waits_a_request_is_told_when_to_come_back(released: Released) -> None:
    with serving([Wanted(released[1], 1.0)], Limits(streams=1, queue=1)) as small:
        with ThreadPoolExecutor(8) as pool:
            answers = list(
                pool.map(lambda number: small.chat(f"alpha {number}", max_tokens=60), range(8))
            )
        statuses = [answer[0] for answer in answers]
        assert set(statuses) == {200, 429}
        late = next(answer for answer in answers if answer[0] == 429)
        assert refused(late, 429, "ask again in")["type"] == "rate_limit_error"
        assert int(late[1]["retry-after"]) >= 1
        assert small.chat("alpha")[0] == 200


def test_an_oversized_body_is_refused_however_it_is_sent(released: Released) -> None:
    with serving([Wanted(released[1], 1.0)], Limits(body_bytes=1000)) as small:
        error = refused(small.chat("x" * 2000), 413, "longer than the 1000 bytes")
        assert error["code"] == "body_too_large"
        with socket.create_connection(("127.0.0.1", small.port), timeout=10) as endless:
            endless.sendall(
                b"POST /v1/completions HTTP/1.1\r\nhost: localhost\r\n"
                b"content-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n"
            )
            told = b""
            try:
                for _ in range(1000):
                    endless.sendall(b"100\r\n" + b"x" * 256 + b"\r\n")
            except OSError:
                pass  # the server hung up
            try:
                while part := endless.recv(4096):
                    told += part
            except OSError:
                pass
        assert told.startswith(b"HTTP/1.1 413") or not told
        assert small.chat("alpha")[0] == 200


def test_errors_read_as_openai_s_through_its_sdk(served: Served) -> None:
    client = openai.OpenAI(base_url=served.url, api_key="none", max_retries=0)
    with pytest.raises(openai.NotFoundError, match="does not exist"):
        client.models.retrieve("gpt-4")
    with pytest.raises(openai.BadRequestError, match="one reply to a request"):
        client.chat.completions.create(
            model=NAME, messages=[{"role": "user", "content": "alpha"}], n=2
        )
