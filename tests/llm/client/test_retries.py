"""What is asked again and what isn't, how outages are sat out, and how fast calls are sent."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable

import pytest

from chatllama_pipeline.errors import ProviderError
from chatllama_pipeline.llm.client.dispatch import MOST_ATTEMPTS
from chatllama_pipeline.llm.client.openai_calls import retry_after
from chatllama_pipeline.llm.client.requests import LlmClient, LlmReply
from tests.llm.loopback.asking import ask, asks, texts
from tests.llm.loopback.server import FAULTS, Behaviour, OpenAiServer

MakeClient = Callable[..., LlmClient]


@pytest.mark.parametrize("fault", [*FAULTS, "status_408", "status_409", "status_503"])
def test_each_passing_fault_is_asked_again(
    make_client: MakeClient, openai_server: OpenAiServer, fault: str
) -> None:
    openai_server.behaviour.script.extend([fault, "ok"])
    # Of calls that are answered, too.
    client = make_client(timeout=3 if fault == "stalled" else 60)
    (answer,) = client.answer([ask("a")])
    assert isinstance(answer, LlmReply)
    assert [seen.outcome for seen in openai_server.seen] == [fault, "ok"]
    assert (client.ledger().calls, client.ledger().retried) == (1, 1)


@pytest.mark.parametrize("status", [400, 403, 422])
def test_what_a_retry_cannot_mend_is_asked_once(
    make_client: MakeClient, openai_server: OpenAiServer, status: int
) -> None:
    openai_server.behaviour.script.append(f"status_{status}")
    client = make_client()
    if status == 403:
        with pytest.raises(ProviderError, match="or the model to it"):
            client.answer([ask("a")])
    else:
        assert texts(client.answer([ask("a")])) == ["bad_request"]
    assert len(openai_server.seen) == 1
    assert client.ledger().retried == 0


def test_the_wait_that_a_server_asks_for_is_read_in_seconds_or_as_a_date() -> None:
    assert retry_after({"retry-after": "1.5"}) == 1.5
    assert retry_after({"retry-after": "9", "retry-after-ms": "250"}) == 0.25
    # 2015-10-21 07:28:00 UTC is 1445412480 seconds after 1970.
    date = "Wed, 21 Oct 2015 07:28:00 GMT"
    assert retry_after({"retry-after": date}, now=1445412470.0) == 10.0
    assert retry_after({"retry-after": date}, now=1445412490.0) == 0.0
    assert retry_after({}) is None
    assert retry_after({"retry-after": "soon"}) is None


def test_an_outage_is_sat_out_by_single_probes(
    make_client: MakeClient, openai_server: OpenAiServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("chatllama_pipeline.llm.client.limits._FIRST_REST", 0.05)
    monkeypatch.setattr("chatllama_pipeline.llm.client.dispatch._FIRST_WAIT", 0.01)
    # 8 failures in a row open the breaker; 2 probes fail before the third finds it back.
    openai_server.behaviour.script.extend(["ok"] * 4 + ["server_error"] * 10)
    client = make_client(concurrency=1)
    assert texts(client.answer(asks(40))) == [f"row {number}" for number in range(40)]
    assert [seen.outcome for seen in openai_server.seen].count("server_error") == 10
    probes = [seen.at for seen in openai_server.seen if seen.outcome == "server_error"][-2:]
    after = next(seen.at for seen in openai_server.seen if seen.at > probes[-1])
    # The rests double: 0.1 s after the first probe, 0.2 s after the second.
    assert probes[1] - probes[0] >= 0.1
    assert after - probes[1] >= 0.2


def test_an_outage_that_lasts_stops_all_after_few_calls_and_keeps_what_there_is(
    make_client: MakeClient, openai_server: OpenAiServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("chatllama_pipeline.llm.client.limits._FIRST_REST", 0.01)
    monkeypatch.setattr("chatllama_pipeline.llm.client.dispatch._FIRST_WAIT", 0.01)
    openai_server.behaviour.script.extend(["ok"] * 4 + ["server_error"] * 500)
    with pytest.raises(ProviderError, match="stays out of order"):
        make_client(concurrency=4).answer(asks(100))
    # 4 answered, 8 until the breaker opened, those under way then, and its probes.
    assert len(openai_server.seen) <= 4 + 8 + 3 + 6
    assert make_client().estimate(asks(100)).cached == 4


def test_a_request_that_every_row_is_refused_for_stops_all(
    make_client: MakeClient, openai_server: OpenAiServer
) -> None:
    openai_server.behaviour.refuses = {"messages": "No system messages, please."}
    with pytest.raises(
        ProviderError, match=r"refuses every request\. It said: 400 .*No system messages"
    ):
        make_client(concurrency=2).answer(asks(100))
    assert len(openai_server.seen) <= 22


def test_a_server_that_asks_to_wait_is_left_alone_so_long_by_every_call(
    make_client: MakeClient, openai_server: OpenAiServer
) -> None:
    openai_server.behaviour.script.append("rate_limited")
    openai_server.behaviour.retry_after = "0.4"
    make_client(concurrency=1).answer(asks(4))
    first, *others = [seen.at for seen in openai_server.seen]
    assert len(others) == 4
    assert all(at - first >= 0.4 for at in others)


def test_what_never_comes_right_is_left_for_the_next_run_with_its_reason(
    make_client: MakeClient, openai_server: OpenAiServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("chatllama_pipeline.llm.client.dispatch._FIRST_WAIT", 0.001)
    client = make_client()
    openai_server.behaviour.script.extend(["malformed"] * MOST_ATTEMPTS)
    with pytest.raises(
        ProviderError, match=r"1 of 1 rows are still to ask \(malformed_reply 1\)"
    ) as left:
        client.answer([ask("a")])
    assert '{"id": "cmpl-1"' in str(left.value)
    assert client.ledger().failed == 1
    # A failure is no answer: it is asked again in the next run.
    assert texts(make_client().answer([ask("a")])) == ["a"]


def test_with_faults_in_a_fifth_of_all_calls_every_row_is_answered_or_has_its_reason(
    make_client: MakeClient, openai_server: OpenAiServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("chatllama_pipeline.llm.client.dispatch._FIRST_WAIT", 0.05)
    openai_server.behaviour = Behaviour(faults=dict.fromkeys(FAULTS, 0.2 / len(FAULTS)))
    openai_server.behaviour.retry_after = "0.02"
    client = make_client(concurrency=32, timeout=1.5)
    # Eight attempts fail once in .2 ** -8 = 390,625 rows; a busy machine's timeouts come on top,
    # and are asked again by the next run.
    with contextlib.suppress(ProviderError):
        client.answer(asks(200))
    assert texts(make_client(timeout=60).answer(asks(200))) == [f"row {n}" for n in range(200)]
    assert client.ledger().failed <= 5
    met = [seen.outcome for seen in openai_server.seen]
    assert set(met) == {*FAULTS, "ok"}
    # A connection that closes under a call may be retried before the server saw it.
    assert client.ledger().retried + client.ledger().failed >= len(met) - 200


def test_requests_per_minute_space_the_calls(
    make_client: MakeClient, openai_server: OpenAiServer
) -> None:
    begun = time.monotonic()
    make_client(requests_per_minute=300).answer(asks(6))
    # 300 a minute are one every 0.2 s, and 5 gaps are 1 s.
    assert max(seen.at for seen in openai_server.seen) - begun >= 0.99


def test_calls_that_wait_for_their_turn_do_not_hold_up_an_end(
    make_client: MakeClient, openai_server: OpenAiServer
) -> None:
    openai_server.behaviour.quota_left = False
    with pytest.raises(ProviderError, match="quota"):
        # The second of 8 calls would be sent after a minute.
        make_client(requests_per_minute=1, concurrency=8).answer(asks(8))
    assert len(openai_server.seen) == 1


def test_tokens_per_minute_space_the_calls(
    make_client: MakeClient, openai_server: OpenAiServer
) -> None:
    # "row 0" is expected to take 2 + 4 + 40 = 46 tokens and takes 4; the next may follow after
    # what was taken for sure: nothing is given back before the answer is there.
    begun = time.monotonic()
    make_client(tokens_per_minute=46 * 600, concurrency=8).answer(asks(6))
    assert max(seen.at for seen in openai_server.seen) - begun >= 0.2
