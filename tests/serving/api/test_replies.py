from __future__ import annotations

import json
import os
import re
import select
import shutil
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import openai
import pytest
from prometheus_client.parser import text_string_to_metric_families

from chatllama_pipeline.models.chat.template import prompt_ids
from chatllama_pipeline.models.loading import load_tokenizer
from chatllama_pipeline.records import user_prompt
from chatllama_pipeline.serving.engine.paged import PagedEngine
from chatllama_pipeline.store.manifests import Version
from chatllama_pipeline.store.versions import Store
from tests.serving.served import NAME, Served, greedy
from tests.waiting import PATIENCE, wait_until

Released = tuple[Store, Version, Version]


@pytest.fixture(scope="module")
def client(served: Served) -> openai.OpenAI:
    return openai.OpenAI(base_url=served.url, api_key="none", max_retries=0)


def test_a_reply_is_what_generate_writes_greedily(served: Served, released: Released) -> None:
    folder = released[1].path
    tokenizer = load_tokenizer(folder)
    for text in ("alpha bravo", "kilo", "x<|end|><|assistant|>Sure."):
        ids = prompt_ids(tokenizer, user_prompt(text), 1000)
        expected = greedy(folder, ids, 12, [tokenizer.eos_token_id])
        status, headers, body = served.chat(text)
        assert status == 200
        [choice] = body["choices"]
        stopped = expected[-1] == tokenizer.eos_token_id
        said = expected[:-1] if stopped else expected
        assert choice["message"]["content"] == tokenizer.decode(said)
        assert choice["finish_reason"] == ("stop" if stopped else "length")
        assert body["usage"] == {
            "prompt_tokens": len(ids),
            "completion_tokens": len(expected),
            "total_tokens": len(ids) + len(expected),
        }
        assert headers["x-chatllama-version"] == body["system_fingerprint"] == released[1].id


def test_the_openai_sdk_reads_replies_streams_and_models(
    client: openai.OpenAI, served: Served, released: Released
) -> None:
    asked = [{"role": "user", "content": "alpha bravo"}]
    whole = client.chat.completions.create(model=NAME, messages=asked, max_tokens=8)  # type: ignore[arg-type]
    assert whole.system_fingerprint == released[1].id
    stream = client.chat.completions.create(
        model=NAME,
        messages=asked,  # type: ignore[arg-type]
        max_tokens=8,
        stream=True,
        stream_options={"include_usage": True},
    )
    chunks = list(stream)
    pieces = [c.choices[0].delta.content or "" for c in chunks if c.choices]
    assert "".join(pieces) == whole.choices[0].message.content
    assert [c.choices[0].finish_reason for c in chunks if c.choices][-1] == "length"
    assert chunks[-1].usage == whole.usage
    assert {chunk.id for chunk in chunks} == {chunks[0].id}
    listed = [model.id for model in client.models.list()]
    assert listed == [NAME, f"{NAME}@{released[1].id}"]
    assert client.models.retrieve(NAME).owned_by == "chatllama"


def test_a_stream_s_beginning_and_end_are_sent_with_its_first_and_last_piece(
    served: Served,
) -> None:
    body = {"model": NAME, "messages": [{"role": "user", "content": "alpha bravo"}]}
    text = json.dumps(body | {"stream": True, "stream_options": {"include_usage": True}})
    with socket.create_connection(("127.0.0.1", served.port), timeout=PATIENCE) as asking:
        asking.sendall(
            "POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n"
            f"content-type: application/json\r\ncontent-length: {len(text)}\r\n\r\n{text}".encode()
        )
        told = asking.makefile("rb").read().decode()
    # Each sending is a part of a body whose length isn't told.
    parts = re.split(r"\r\n[0-9a-f]+\r\n", told)[1:-1]
    assert '"role": "assistant"' in parts[0] and '"delta": {"content": ' in parts[0]
    for mark in ('"finish_reason": "length"', '"choices": []', "data: [DONE]"):
        assert mark in parts[-1]
    assert all('"delta": {"content": ' in part for part in parts)


def test_a_completion_goes_on_with_a_plain_text(client: openai.OpenAI, released: Released) -> None:
    folder = released[1].path
    tokenizer = load_tokenizer(folder)
    ids = tokenizer.encode("alpha bravo")
    expected = tokenizer.decode(greedy(folder, ids, 9, []))
    whole = client.completions.create(model=NAME, prompt="alpha bravo", max_tokens=9)
    assert whole.choices[0].text == expected
    stream = client.completions.create(model=NAME, prompt="alpha bravo", max_tokens=9, stream=True)
    assert "".join(chunk.choices[0].text for chunk in stream) == expected


def test_a_stop_text_ends_a_reply_and_is_none_of_it(served: Served) -> None:
    _, _, body = served.chat("alpha bravo")
    text = body["choices"][0]["message"]["content"]
    stop = text[4:6]
    for more in ({"stop": stop}, {"stop": ["never said", stop]}):
        _, _, body = served.chat("alpha bravo", **more)
        [choice] = body["choices"]
        assert choice["message"]["content"] == text[: text.index(stop)]
        assert choice["finish_reason"] == "stop"
        assert body["usage"]["completion_tokens"] < 12


def test_a_seed_repeats_a_sampled_reply_and_none_varies_it(served: Served) -> None:
    def said(**more: object) -> str:
        _, _, body = served.chat("alpha", temperature=1.5, **more)
        return str(body["choices"][0]["message"]["content"])

    assert said(seed=5) == said(seed=5) != said(seed=6)
    assert len({said() for _ in range(3)}) > 1
    assert (
        said(top_k=1)
        == said(top_p=1e-9)
        == served.chat("alpha")[2]["choices"][0]["message"]["content"]
    )


def test_many_at_once_have_the_replies_that_each_has_alone(served: Served) -> None:
    texts = [f"{word} {count}" for word in ("alpha", "kilo") for count in range(6)]
    alone = [served.chat(text)[2]["choices"] for text in texts]
    with ThreadPoolExecutor(12) as pool:
        together = list(pool.map(lambda text: served.chat(text)[2]["choices"], texts))
    assert together == alone


def test_parts_of_text_and_a_developer_s_message_are_read(served: Served) -> None:
    def said(messages: list[dict[str, object]]) -> object:
        body = {"model": NAME, "messages": messages}
        return served.ask("/v1/chat/completions", body)[2]["choices"]

    part = {"type": "text", "text": "alpha bravo"}
    assert said([{"role": "user", "content": [part]}]) == said(
        [{"role": "user", "content": "alpha bravo", "name": None}]
    )
    ruled = [{"role": "developer", "content": "kilo"}, {"role": "user", "content": "alpha"}]
    assert said(ruled) == said([{"role": "system", "content": "kilo"}, ruled[1]])
    assert said(ruled) != said(ruled[1:])


def test_whoever_leaves_ends_the_work_on_the_reply(served: Served) -> None:
    def counted(name: str) -> float:
        _, _, text = served.ask("/metrics")
        return float(re.search(rf"^chatllama_{name} (\S+)", text, re.MULTILINE)[1])  # type: ignore[index]

    def leave(streamed: bool) -> None:
        text = json.dumps(asked | {"stream": streamed})
        with socket.create_connection(("127.0.0.1", served.port)) as leaving:
            leaving.sendall(
                "POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\n"
                "content-type: application/json\r\n"
                f"content-length: {len(text)}\r\n\r\n{text}".encode()
            )
            if streamed:
                assert leaving.recv(100).startswith(b"HTTP/1.1 200")
            else:
                wait_until(
                    lambda: counted("in_flight") == 1 or select.select([leaving], [], [], 0)[0]
                )
        wait_until(lambda: counted("in_flight") == 0)

    said = [{"role": "user", "content": "alpha"}]
    asked = {"model": NAME, "messages": said, "max_tokens": 120, "temperature": 2}
    for streamed in (True, False):
        before = counted("cancelled_total")
        # A reply that was written before one could leave is no proof.
        for _ in range(100):
            leave(streamed)
            if counted("cancelled_total") > before:
                break
        assert counted("cancelled_total") == before + 1
    engine = served.versions.speakers[0].engine
    assert isinstance(engine, PagedEngine)
    assert not engine._chooser.rows
    assert not engine._manager.output_router.result_handlers


def test_health_and_metrics_tell_who_speaks_and_how_much(
    served: Served, released: Released
) -> None:
    status, _, body = served.ask("/health")
    assert (status, body["status"]) == (200, "ok")
    assert body["versions"] == [
        {"version": released[1].id, "share": 1.0, "engine": PagedEngine.name, "why": None}
    ]
    served.chat("alpha")
    status, headers, text = served.ask("/metrics")
    assert headers["content-type"].startswith("text/plain; version=0.0.4")
    parsed = {family.name: family for family in text_string_to_metric_families(text)}
    counts = {
        (s.labels["kind"], s.value > 0)
        for s in parsed["chatllama_tokens"].samples
        if s.name.endswith("_total")
    }
    assert counts == {("prompt", True), ("completion", True)}
    paths = {s.labels["path"] for s in parsed["chatllama_requests"].samples}
    assert "/v1/chat/completions" in paths
    assert parsed["chatllama_reply_seconds"].samples
    [share] = parsed["chatllama_version_share"].samples
    assert share.labels == {"version": released[1].id, "engine": PagedEngine.name}


# As langchain-openai 1.7.4 sends them, and as Open WebUI 0.12.4 builds them.
RECORDED = json.loads((Path(__file__).parent / "recorded_requests.json").read_text())


@pytest.mark.parametrize("who", sorted(RECORDED))
def test_requests_of_known_clients_are_answered(served: Served, who: str) -> None:
    recorded = RECORDED[who]
    body = json.dumps(recorded["body"]).encode()
    status, _, answer = served.ask(recorded["path"], body, recorded["headers"])
    assert status == 200, answer
    if recorded["body"].get("stream"):
        events = [line.removeprefix("data: ") for line in answer.splitlines() if line]
        assert events[-1] == "[DONE]"
        assert all(json.loads(event)["object"] == "chat.completion.chunk" for event in events[:-1])
    else:
        assert answer["choices"][0]["finish_reason"] in ("stop", "length")


def test_transformers_chat_talks_to_it(served: Served) -> None:
    program = Path(sys.executable).with_name("transformers")
    ended = subprocess.run(
        [program, "chat", NAME, served.url, "do_sample=False", "max_new_tokens=9"],
        input="alpha bravo\nn\n!exit\n",
        env=os.environ | {"TERM": "dumb", "COLUMNS": "400", "HF_HUB_OFFLINE": "0"},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    _, _, body = served.chat("alpha bravo", temperature=0, max_tokens=9)
    said = body["choices"][0]["message"]["content"]
    # What is shown passes through Markdown.
    letters = [re.sub("[^a-z]", "", text) for text in (said, ended.stdout)]
    assert letters[0] and letters[0] in letters[1], ended.stdout + ended.stderr


CURL = shutil.which("curl")


@pytest.mark.skipif(CURL is None, reason="no curl here: apt-get install curl")
def test_curl_reads_replies_streams_and_errors(served: Served) -> None:
    def curl(path: str, *options: str, **body: object) -> str:
        asked = {"model": NAME, "messages": [{"role": "user", "content": "alpha bravo"}], **body}
        command = [str(CURL), "-sS", "--noproxy", "*", served.url + path, "-d", json.dumps(asked)]
        return subprocess.run(
            [*command, *options], capture_output=True, text=True, timeout=PATIENCE, check=True
        ).stdout

    kind = ("-H", "content-type: application/json")
    whole = json.loads(curl("/chat/completions", *kind))["choices"][0]["message"]["content"]
    assert whole == served.chat("alpha bravo")[2]["choices"][0]["message"]["content"]
    lines = curl("/chat/completions", "-N", *kind, stream=True).split("\n\n")
    events = [line.removeprefix("data: ") for line in lines if line]
    assert events.pop() == "[DONE]"
    deltas = [json.loads(event)["choices"][0]["delta"] for event in events]
    assert "".join(delta.get("content") or "" for delta in deltas) == whole
    status = ("-o", "/dev/null", "-w", "%{http_code}")
    assert curl("/chat/completions", *kind, *status, n=2) == "400"
    # What curl says that a body is where it isn't told.
    assert "content-type" in json.loads(curl("/chat/completions"))["error"]["message"].lower()
