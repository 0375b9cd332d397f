"""Budgets against a server that charges: never passed, whatever breaks; and nothing paid twice."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from chatllama_pipeline.errors import BudgetError
from chatllama_pipeline.llm.client.cache import AnswerCache, cache_file
from chatllama_pipeline.llm.client.money import (
    OPENAI_TERMS,
    Budget,
    Tariff,
    likely_prompt_tokens,
    most_prompt_tokens,
)
from chatllama_pipeline.llm.client.requests import LlmClient, LlmReply, LlmRequest
from chatllama_pipeline.records import Message
from chatllama_pipeline.settings import Price
from tests.llm.loopback.server import FAULTS, OpenAiServer
from tests.waiting import PATIENCE, wait_until

MakeClient = Callable[..., LlmClient]
REPOSITORY = Path(__file__).parents[3]
# Dear enough that a few hundred calls cost a dollar: the server charges up to 20 tokens of reply.
DEAR = {"input": 100.0, "output": 200.0}


def asks(count: int, max_tokens: int = 20) -> list[LlmRequest]:
    return [
        LlmRequest((Message("user", f"a somewhat longer row {number}"),), 0.1, max_tokens)
        for number in range(count)
    ]


def test_a_price_is_per_million_tokens_and_halved_in_batches() -> None:
    price = Price(input=2.0, output=8.0)
    # 1,000 tokens in at 2 $ and 500 out at 8 $ a million.
    assert Tariff(price).usd(1000, 500) == pytest.approx(0.006)
    assert Tariff(price, share=0.5).usd(1000, 500) == pytest.approx(0.003)
    assert Tariff("free").usd(1000, 500) == 0.0
    assert Tariff("unknown").usd(1000, 500) is None


def test_tokens_are_bounded_from_above_in_any_script() -> None:
    english = LlmRequest((Message("user", "How do I grow basil?"),), 0.1, 10)
    chinese = LlmRequest((Message("user", "我该怎么种罗勒"),), 0.1, 10)
    # 20 bytes: 7 tokens and 4 around. 7 signs of 3 bytes: one token each, and 4 around.
    assert (likely_prompt_tokens(english), likely_prompt_tokens(chinese)) == (11, 11)
    # A token per byte, 64 around the conversation and 16 around its message.
    assert (most_prompt_tokens(english), most_prompt_tokens(chinese)) == (100, 101)


def test_reserved_money_counts_until_it_is_settled() -> None:
    budget = Budget(max_usd=1.0, paid=0.3)
    first = budget.reserve(0.5)
    assert first is not None
    assert budget.reserve(0.3) is None
    budget.settle(first, 0.1)
    assert budget.paid == pytest.approx(0.4)
    assert budget.reserve(0.6) is not None
    assert budget.reserve(0.0) is not None


def test_a_dollar_is_never_passed_with_concurrency_retries_and_faults(
    make_client: MakeClient, openai_server: OpenAiServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("chatllama_pipeline.llm.client.dispatch._FIRST_WAIT", 0.02)
    openai_server.behaviour.latency = 0.01
    openai_server.behaviour.retry_after = "0.02"
    # One call alone is never answered, so that a busy machine has seconds for all others.
    openai_server.behaviour.script.append("stalled")
    passing = [fault for fault in FAULTS if fault != "stalled"]
    openai_server.behaviour.faults = dict.fromkeys(passing, 0.2 / len(passing))
    openai_server.behaviour.reply = lambda body: "word " * 14
    keys = {"price": DEAR, "max_usd": 1.0, "concurrency": 32, "timeout": 3}
    client = make_client(**keys)
    with pytest.raises(BudgetError, match=r"llm\.max_usd is 1: .* may cost up to 0\.01"):
        client.answer(asks(1000))
    charged = openai_server.charged(100.0, 200.0)
    ledger = client.ledger()
    assert ledger.usd is not None
    # What the server charges for replies that never came home is counted at its most.
    assert charged <= ledger.usd <= 1.0
    # Near the limit: the call that didn't fit costs 111 bytes and 20 tokens at most.
    assert ledger.usd > 1.0 - (111 * 100 + 20 * 200) / 1e6
    # All that was paid for is kept, and a second run of the same making pays nothing.
    again = make_client(**keys)
    assert again.estimate(asks(1000)).cached == ledger.calls
    seen = len(openai_server.seen)
    with pytest.raises(BudgetError):
        again.answer(asks(1000))
    assert len(openai_server.seen) == seen
    # Another making has its own dollar.
    assert make_client(scope="other", **keys).answer(asks(1000)[-1:])[0].completion_tokens == 18  # type: ignore[union-attr]


def test_without_money_nothing_is_sent_but_what_is_cached_and_free_is_answered(
    make_client: MakeClient, openai_server: OpenAiServer
) -> None:
    make_client().answer(asks(2))
    broke = make_client(max_usd=0)
    assert all(isinstance(answer, LlmReply) for answer in broke.answer(asks(2)))
    with pytest.raises(BudgetError, match=r"llm\.max_usd is 0: 0\.0000 US dollars are paid"):
        broke.answer(asks(3))
    assert len(openai_server.seen) == 2
    assert len(make_client(max_usd=0, price="free").answer(asks(3))) == 3


def test_an_unknown_price_counts_no_money_and_says_so(make_client: MakeClient) -> None:
    client = make_client(price="unknown", max_usd=0)
    estimate = client.estimate(asks(3))
    assert estimate.usd is None
    assert "the price of loopback-1 is unknown: llm.max_usd does not hold" in estimate.notes
    client.answer(asks(3))
    assert client.ledger().usd is None
    assert client.ledger().metrics()["llm_usd"] == "unknown"


def test_the_estimate_is_made_before_any_call_and_holds(
    make_client: MakeClient, openai_server: OpenAiServer
) -> None:
    client = make_client(price=DEAR, max_usd=100)
    client.answer(asks(10))
    before = len(openai_server.seen)
    estimate = client.estimate([*asks(30), *asks(30)])
    assert len(openai_server.seen) == before
    assert (estimate.calls, estimate.cached) == (20, 40)
    # "a somewhat longer row 10": 24 bytes are 8 tokens, and 4 around; 20 tokens of reply each.
    assert (estimate.prompt_tokens, estimate.completion_tokens) == (20 * 12, 20 * 20)
    assert estimate.usd == pytest.approx((240 * 100 + 400 * 200) / 1e6)
    paid = client.ledger().usd
    client.answer(asks(30))
    assert client.ledger().usd - paid <= estimate.usd  # type: ignore[operator]


def test_openais_terms_are_told_with_the_estimate_where_openai_answers(
    make_client: MakeClient,
) -> None:
    assert make_client().estimate(asks(1)).notes == ()
    openai = make_client(base_url="https://api.openai.com/v1").estimate(asks(1))
    assert openai.notes == (OPENAI_TERMS,)
    assert "compete with OpenAI" in OPENAI_TERMS


ASKER = """
import sys
from pathlib import Path
from chatllama_pipeline.llm.clients import open_client
from chatllama_pipeline.llm.client.requests import LlmRequest
from chatllama_pipeline.records import Message
from chatllama_pipeline.settings import AssistantSettings

url, folder, rows = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
llm = {"provider": "openai", "model": "loopback-1", "base_url": url, "price": "free",
       "api_key_env": "OPENAI_API_KEY", "concurrency": 8}
role = AssistantSettings.model_validate({"llm": llm}).role("judge")
requests = [LlmRequest((Message("user", f"row {n}"),), 0.1, 20) for n in range(rows)]
with open_client(role, folder) as client:
    answers = client.answer(requests)
    assert [answer.text for answer in answers] == [f"row {n}" for n in range(rows)]
    print(client.ledger().calls, client.ledger().cached)
"""


def run_asker(server: OpenAiServer, folder: Path, rows: int) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", ASKER, server.url, str(folder), str(rows)],
        cwd=REPOSITORY,
        env=dict(os.environ),
        stdout=subprocess.PIPE,
        text=True,
    )


def killed_in_the_middle(server: OpenAiServer, folder: Path, rows: int) -> None:
    """After SIGKILL and a second run no answered row was asked twice."""
    with run_asker(server, folder, rows) as first:
        wait_until(lambda: len(server.seen) >= rows // 2)
        first.send_signal(signal.SIGKILL)
    cache = AnswerCache(cache_file(Path(os.environ["CHATLLAMA_STORE"])))
    (kept,) = cache.by_model()
    cache.close()
    asked = len(server.seen)
    assert 0 < kept.answers < rows
    # Of those asked only the 8 under way can have no kept answer.
    assert asked - kept.answers <= 8
    with run_asker(server, folder, rows) as second:
        told, _ = second.communicate(timeout=PATIENCE)
    assert told.split() == [str(rows - kept.answers), str(kept.answers)]
    assert len(server.seen) == asked + rows - kept.answers
    counted: dict[str, int] = {}
    for seen in server.seen:
        text = seen.body["messages"][0]["content"]
        counted[text] = counted.get(text, 0) + 1
    assert sum(times > 1 for times in counted.values()) <= 8


def test_after_a_kill_no_answered_row_is_asked_again(
    openai_server: OpenAiServer, tmp_path: Path
) -> None:
    openai_server.behaviour.latency = 0.02
    killed_in_the_middle(openai_server, tmp_path / "run", rows=200)


@pytest.mark.slow
def test_after_a_kill_amid_2000_rows_no_answered_row_is_asked_again(
    openai_server: OpenAiServer, tmp_path: Path
) -> None:
    openai_server.behaviour.latency = 0.02
    killed_in_the_middle(openai_server, tmp_path / "run", rows=2000)


def test_several_processes_share_a_cache(openai_server: OpenAiServer, tmp_path: Path) -> None:
    openai_server.behaviour.latency = 0.005
    running = [run_asker(openai_server, tmp_path / f"run{n}", 100) for n in range(2)]
    for process in running:
        with process:
            process.communicate(timeout=PATIENCE)
        assert process.returncode == 0
    cache = AnswerCache(cache_file(Path(os.environ["CHATLLAMA_STORE"])))
    assert [kept.answers for kept in cache.by_model()] == [100]
    cache.close()
