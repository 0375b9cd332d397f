"""The client against a real server: answers in order, nothing paid twice, failures told apart."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from chatllama_pipeline.errors import ProviderError
from chatllama_pipeline.llm.client.cache import cache_file
from chatllama_pipeline.llm.client.requests import LlmClient, LlmFailure, LlmReply, LlmRequest
from chatllama_pipeline.records import Message
from tests.llm.loopback.asking import ask, asks, texts
from tests.llm.loopback.server import KEY, OpenAiServer

MakeClient = Callable[..., LlmClient]


def test_answers_come_in_the_order_of_their_requests_and_are_counted(
    make_client: MakeClient, openai_server: OpenAiServer
) -> None:
    openai_server.behaviour.latency = 0.02
    openai_server.behaviour.together = 8
    told: list[tuple[int, int]] = []
    client = make_client(concurrency=8)
    answers = client.answer(asks(40), lambda done, total: told.append((done, total)))
    assert texts(answers) == [f"row {number}" for number in range(40)]
    assert openai_server.most_in_flight == 8
    assert told == [(done, 40) for done in range(41)]
    ledger = client.ledger()
    assert (ledger.calls, ledger.cached, ledger.retried, ledger.failed) == (40, 0, 0, 0)
    # "row 7" are 5 bytes, "row 17" 6: 5 // 4 + 1 = 2 tokens each way.
    assert (ledger.prompt_tokens, ledger.completion_tokens) == (80, 80)
    # 80 tokens at 1 $ and 80 at 2 $ a million.
    assert ledger.usd == pytest.approx(0.00024)
    assert ledger.usd == pytest.approx(openai_server.charged(1.0, 2.0))


def test_what_was_answered_is_not_asked_again_by_anyone(
    make_client: MakeClient, openai_server: OpenAiServer
) -> None:
    first = make_client().answer(asks(5))
    again = make_client(scope="another").answer([ask("row 9"), *asks(5)])
    assert len(openai_server.seen) == 6
    assert [answer.cached for answer in first + again] == [False] * 6 + [True] * 5  # type: ignore[union-attr]
    assert texts(again[1:]) == texts(first)


def test_equal_requests_are_asked_once_and_samples_apart(
    make_client: MakeClient, openai_server: OpenAiServer
) -> None:
    client = make_client()
    answers = client.answer([ask("a"), ask("a"), ask("a", sample=1), ask("a", temperature=0.2)])
    assert [answer.cached for answer in answers] == [False, True, False, False]  # type: ignore[union-attr]
    assert len(openai_server.seen) == 3
    assert (client.ledger().calls, client.ledger().cached) == (3, 1)


@pytest.mark.parametrize(
    "changed",
    [{"model": "other"}, {"style": "completion"}, {"extra_body": {"reasoning_effort": "low"}}],
    ids=str,
)
def test_another_model_or_another_way_of_asking_is_another_question(
    make_client: MakeClient, openai_server: OpenAiServer, changed: dict[str, Any]
) -> None:
    openai_server.behaviour.models = ["loopback-1", "other"]
    make_client().answer([ask("a")])
    make_client(**changed).answer([ask("a")])
    assert len(openai_server.seen) == 2


def test_what_is_sent_is_what_the_role_says(
    make_client: MakeClient, openai_server: OpenAiServer
) -> None:
    schema = json.dumps({"type": "object", "properties": {"score": {"type": "number"}}})
    asked = LlmRequest(
        (Message("system", "Judge."), Message("user", "Well?")), 0.1, 40, 7, json_schema=schema
    )
    make_client(extra_body={"top_k": 1}).answer([asked])
    make_client(omit=["temperature", "seed", "json_schema"]).answer([asked])
    chat = make_client(style="completion")
    assert not chat.json_schema_supported
    chat.answer([asked])
    full, bare, completion = (seen.body for seen in openai_server.seen)
    messages = [{"role": "system", "content": "Judge."}, {"role": "user", "content": "Well?"}]
    assert full == {
        "model": "loopback-1",
        "messages": messages,
        "temperature": 0.1,
        "max_tokens": 40,
        "seed": 7,
        "top_k": 1,
        "response_format": {
            "type": "json_schema",
            "json_schema": {"name": "reply", "strict": True, "schema": json.loads(schema)},
        },
    }
    assert bare == {"model": "loopback-1", "messages": messages, "max_tokens": 40}
    assert completion["prompt"] == "Judge.\n\nWell?"


def test_a_prompt_longer_than_the_context_fails_alone(
    make_client: MakeClient, openai_server: OpenAiServer
) -> None:
    openai_server.behaviour.context_tokens = 100
    too_long, fits = make_client().answer([ask("word " * 80), ask("short")])
    assert isinstance(too_long, LlmFailure)
    assert (too_long.reason, too_long.retryable) == ("prompt_too_long", False)
    assert "maximum context length is 100 tokens" in too_long.detail
    assert isinstance(fits, LlmReply)
    assert len(openai_server.seen) == 2


def test_a_missing_key_is_told_before_any_call(
    make_client: MakeClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OPENAI_API_KEY")
    with pytest.raises(ProviderError, match="variable OPENAI_API_KEY holds no key for http"):
        make_client()


def test_openais_key_is_not_sent_to_another_server_unless_it_is_named(
    make_client: MakeClient, openai_server: OpenAiServer
) -> None:
    with pytest.raises(
        ProviderError, match=r"wants a key: name its variable with llm\.api_key_env"
    ):
        make_client(api_key_env=None).answer([ask("a")])


def test_openais_organization_is_not_told_to_another_server(
    make_client: MakeClient, openai_server: OpenAiServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_ORG_ID", "org-mine")
    monkeypatch.setenv("OPENAI_PROJECT_ID", "proj-mine")
    make_client().answer([ask("a")])
    assert b"authorization" in openai_server.seen[0].headers
    assert b"-mine" not in b" ".join(openai_server.seen[0].headers.values())


def test_a_wrong_key_stops_all_after_few_calls_and_is_never_shown(
    make_client: MakeClient, openai_server: OpenAiServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-wrong-secret")
    with pytest.raises(ProviderError, match="refuses the key in OPENAI_API_KEY") as refusal:
        make_client(concurrency=4).answer(asks(50))
    assert "sk-" not in str(refusal.value)
    assert openai_server.seen == []


def test_an_unknown_model_stops_all_and_says_where_the_known_ones_are_listed(
    make_client: MakeClient, openai_server: OpenAiServer
) -> None:
    with pytest.raises(ProviderError, match=r"doesn't know the model 'gone' \(llm\.model\)"):
        make_client(model="gone", concurrency=4).answer(asks(50))
    assert len(openai_server.seen) <= 4


def test_a_used_up_quota_stops_all_at_once(
    make_client: MakeClient, openai_server: OpenAiServer
) -> None:
    openai_server.behaviour.quota_left = False
    with pytest.raises(ProviderError, match="your credit or quota is used up"):
        make_client(concurrency=4).answer(asks(50))
    assert len(openai_server.seen) <= 4


def test_a_refused_parameter_names_the_setting_that_omits_it(
    make_client: MakeClient, openai_server: OpenAiServer
) -> None:
    openai_server.behaviour.refuses = {"temperature": "Unsupported value: 'temperature'."}
    client = make_client()
    assert texts(client.answer([ask("a")])) == ["a"]
    assert "llm.omit: [temperature] sends none from the start" in client.warnings()[0]
    make_client(omit=["temperature"]).answer([ask("b")])
    assert ["temperature" in seen.body for seen in openai_server.seen] == [True, False, False]


def test_a_base_url_where_nobody_answers_is_told_after_few_calls(make_client: MakeClient) -> None:
    client = make_client(base_url="http://127.0.0.1:9/v1", concurrency=8)
    with pytest.raises(ProviderError, match=r"http://127.0.0.1:9/v1 .* does not answer") as refusal:
        client.answer(asks(50))
    assert "is base_url right, and the server running?" in str(refusal.value)
    # The breaker opens at the eighth failure in a row.
    assert client.ledger().retried <= 8


def test_what_was_paid_before_all_must_stop_is_kept(
    make_client: MakeClient, openai_server: OpenAiServer
) -> None:
    openai_server.behaviour.script.extend(["ok"] * 10 + ["rate_limited"] * 50)
    openai_server.behaviour.retry_after = "3600"
    with pytest.raises(ProviderError, match="asks to wait 3600 s; run again after that"):
        make_client(concurrency=2).answer(asks(30))
    openai_server.reset()
    again = make_client().answer(asks(30))
    assert sum(answer.cached for answer in again) == 10  # type: ignore[union-attr]
    assert len(openai_server.seen) == 20


def test_replies_with_surrogates_and_control_characters_become_plain_text(
    make_client: MakeClient, openai_server: OpenAiServer
) -> None:
    # A pair is one character, a lone half is none; ESC and NUL would reach terminals and files.
    told = "ok \ud83d\ude00 \ud800 \x00\x1b[31mred\r\n\tend\x85"
    openai_server.behaviour.reply = lambda body: told
    for _ in range(2):
        (answer,) = make_client().answer([ask("a \udfff b")])
        assert isinstance(answer, LlmReply)
        assert answer.text == "ok \U0001f600 \ufffd [31mred\n\tend"
    assert openai_server.seen[0].body["messages"][0]["content"] == "a \ufffd b"


def test_a_refusal_a_cut_reply_and_one_without_text_are_told_apart(
    make_client: MakeClient, openai_server: OpenAiServer
) -> None:
    openai_server.behaviour.reply = lambda body: "word " * 50
    (cut,) = make_client().answer([ask("a", max_tokens=5)])
    openai_server.behaviour.message = {"content": None, "refusal": "I can't."}
    (refusal,) = make_client().answer([ask("b")])
    openai_server.behaviour.message = {"content": None}
    (silent,) = make_client().answer([ask("c")])
    assert isinstance(cut, LlmReply) and isinstance(refusal, LlmReply)
    assert (cut.finish_reason, cut.completion_tokens) == ("length", 5)
    assert (refusal.text, refusal.finish_reason) == ("I can't.", "refusal")
    assert texts([silent]) == [""]


def test_the_key_reaches_no_file(
    make_client: MakeClient, openai_server: OpenAiServer, tmp_path: Path
) -> None:
    make_client().answer(asks(3))
    assert openai_server.seen[0].key == KEY
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert files
    assert [path for path in files if KEY.encode() in path.read_bytes()] == []


def test_the_cache_can_be_read_with_any_sqlite(make_client: MakeClient, tmp_path: Path) -> None:
    make_client().answer([ask("a question")])
    with sqlite3.connect(cache_file(tmp_path / "store")) as database:
        ((request, text),) = database.execute("SELECT request, text FROM answers").fetchall()
    assert json.loads(request)["messages"] == [["user", "a question"]]
    assert text == "a question"
