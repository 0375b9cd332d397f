"""The Batch API: submitted once, waited for, collected, found again after a restart."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from chatllama_pipeline.errors import BudgetError, ProviderError
from chatllama_pipeline.llm.client.cache import AnswerCache, cache_file
from chatllama_pipeline.llm.client.requests import LlmClient, LlmFailure, LlmRequest
from chatllama_pipeline.records import Message
from tests.llm.loopback.server import OpenAiServer

MakeClient = Callable[..., LlmClient]


@pytest.fixture(autouse=True)
def polled_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("chatllama_pipeline.llm.client.batches.POLL_SECONDS", 0.01)


def asks(count: int) -> list[LlmRequest]:
    return [LlmRequest((Message("user", f"row {n}"),), 0.1, 20) for n in range(count)]


def waiting_batches(server: OpenAiServer) -> int:
    cache = AnswerCache(cache_file(Path(os.environ["CHATLLAMA_STORE"])))
    try:
        return len(cache.batches(server.url))
    finally:
        cache.close()


def test_a_batch_answers_every_row_at_half_the_price(
    make_client: MakeClient, openai_server: OpenAiServer
) -> None:
    client = make_client(batch=True)
    assert "at half the price" in client.estimate(asks(2)).notes[0]
    answers = client.answer(asks(12))
    assert [answer.text for answer in answers] == [f"row {n}" for n in range(12)]  # type: ignore[union-attr]
    (batch,) = openai_server.batches.values()
    assert (batch["endpoint"], batch["completion_window"]) == ("/v1/chat/completions", "24h")
    line = json.loads(openai_server.files["file-0"].splitlines()[0])
    assert line["body"]["messages"] == [{"role": "user", "content": "row 0"}]
    # 12 x 2 tokens in at 1 $ and as many out at 2 $ a million, halved. ("row 10" has 2, too.)
    assert client.ledger().usd == pytest.approx(24 * 3 / 1e6 / 2)
    assert all(answer.cached for answer in make_client().answer(asks(12)))  # type: ignore[union-attr]
    assert waiting_batches(openai_server) == 0


def test_a_line_that_failed_fails_alone(
    make_client: MakeClient, openai_server: OpenAiServer
) -> None:
    openai_server.behaviour.batch_fails = {"row 1"}
    _, failed, last = make_client(batch=True).answer(asks(3))
    assert isinstance(failed, LlmFailure)
    assert (failed.reason, failed.retryable) == ("bad_request", False)
    assert "Could not be answered." in failed.detail
    assert last.text == "row 2"  # type: ignore[union-attr]


@pytest.mark.parametrize("way", ["expired", "429"])
def test_lines_that_were_not_answered_in_time_are_asked_by_the_next_run(
    make_client: MakeClient, openai_server: OpenAiServer, way: str
) -> None:
    half = {f"row {n}" for n in range(1, 6)}
    if way == "expired":
        openai_server.behaviour.batch_expires = half
    else:
        openai_server.behaviour.batch_fails = half
        openai_server.behaviour.batch_status = 429
    with pytest.raises(ProviderError, match="5 of 10 rows are still to ask") as left:
        make_client(batch=True).answer(asks(10))
    assert ("could not be executed" in str(left.value)) == (way == "expired")
    openai_server.behaviour.batch_expires = openai_server.behaviour.batch_fails = set()
    answers = make_client(batch=True).answer(asks(10))
    assert [answer.cached for answer in answers] == [True] + [False] * 5 + [True] * 4  # type: ignore[union-attr]
    sent = [content for name, content in openai_server.files.items() if name.startswith("file-")]
    assert [len(content.splitlines()) for content in sent] == [10, 5]


def test_lines_that_concern_all_stop_the_run_once_the_others_are_kept(
    make_client: MakeClient, openai_server: OpenAiServer
) -> None:
    openai_server.behaviour.batch_fails = {"row 1", "row 2"}
    openai_server.behaviour.batch_error = {"message": "No money.", "code": "insufficient_quota"}
    with pytest.raises(ProviderError, match="wants to be paid"):
        make_client(batch=True).answer(asks(4))
    openai_server.behaviour.batch_fails = set()
    answers = make_client(batch=True).answer(asks(4))
    assert [answer.cached for answer in answers] == [True, False, False, True]  # type: ignore[union-attr]


@pytest.mark.parametrize("lost", ["GET", "POST"])
def test_a_run_that_ended_while_waiting_or_submitting_collects_its_batch_when_run_again(
    make_client: MakeClient, openai_server: OpenAiServer, lost: str
) -> None:
    # The SDK asks three times for a batch's state; it is submitted once, and the reply is lost.
    openai_server.behaviour.drops = {lost: 3 if lost == "GET" else 1}
    with pytest.raises(ProviderError, match="Batches under way are kept: run again to collect"):
        make_client(batch=True).answer(asks(4))
    assert waiting_batches(openai_server) == 1
    # Two of its rows are wanted again, and one more.
    answers = make_client(batch=True).answer([*asks(2), *asks(5)[4:]])
    assert [answer.text for answer in answers] == ["row 0", "row 1", "row 4"]  # type: ignore[union-attr]
    submitted = [name for name in openai_server.files if name.startswith("file-")]
    lines = [len(openai_server.files[name].splitlines()) for name in submitted]
    assert lines == [4, 1]
    assert waiting_batches(openai_server) == 0


def test_a_batch_takes_only_what_the_budget_holds(
    make_client: MakeClient, openai_server: OpenAiServer
) -> None:
    # "row 0": 5 + 64 + 16 = 85 tokens in at 100 $ and 20 out at 200 $ a million, halved, are
    # 0.00625 $ at most: 4 fit into 0.026 $. They cost 4 x 2 tokens each way, 0.0012 $, and 3 fit
    # into what is left.
    client = make_client(batch=True, price={"input": 100, "output": 200}, max_usd=0.026)
    with pytest.raises(BudgetError, match=r"llm\.max_usd is 0\.026"):
        client.answer(asks(100))
    first, second, *_ = [
        len(content.splitlines())
        for name, content in openai_server.files.items()
        if name.startswith("file-")
    ]
    assert (first, second) == (4, 3)
    assert openai_server.charged(50, 100) == pytest.approx(client.ledger().usd)
    assert openai_server.charged(50, 100) <= 0.026


def test_a_server_without_batches_is_told_with_the_cure(
    make_client: MakeClient, openai_server: OpenAiServer
) -> None:
    with pytest.raises(ProviderError, match=r"set llm\.batch: false where the server has no"):
        make_client(batch=True, base_url=openai_server.url.replace("/v1", "/v2")).answer(asks(2))
