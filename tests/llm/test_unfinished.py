"""What failed for a reason that may pass is asked by the next run, and set aside after a few."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from chatllama_pipeline.errors import ProviderError
from chatllama_pipeline.llm.client.requests import LlmClient, LlmFailure
from tests.llm.loopback.asking import asks, texts
from tests.llm.loopback.replies import told
from tests.llm.loopback.server import OpenAiServer

MakeClient = Callable[..., LlmClient]


@pytest.mark.parametrize("fault", ["status_408", "rate_limited"])
def test_rows_that_failed_for_a_passing_reason_are_asked_by_the_next_run(
    make_client: MakeClient,
    openai_server: OpenAiServer,
    fault: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("chatllama_pipeline.llm.client.dispatch._FIRST_WAIT", 0.001)
    monkeypatch.setattr("chatllama_pipeline.llm.client.dispatch.MOST_ATTEMPTS", 1)
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
    monkeypatch.setattr("chatllama_pipeline.llm.client.dispatch.MOST_ATTEMPTS", 1)
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
