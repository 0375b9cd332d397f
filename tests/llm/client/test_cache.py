"""The file of answers: looked into, pruned, fast, and whole whatever happens to its writers."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import pytest
from click.testing import CliRunner

from chatllama_pipeline.cli.main import cli
from chatllama_pipeline.errors import AbsentError, StoreError
from chatllama_pipeline.llm.client.cache import AnswerCache, Asked, cache_file
from chatllama_pipeline.llm.client.requests import LlmClient, LlmReply, LlmRequest
from chatllama_pipeline.records import Message
from tests.llm.loopback.server import OpenAiServer

MakeClient = Callable[..., LlmClient]


def ask(text: str) -> LlmRequest:
    return LlmRequest((Message("user", text),), 0.1, 20)


def run(*arguments: str) -> str:
    result = CliRunner().invoke(cli, ["cache", *arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def test_the_command_shows_what_is_kept_and_prunes_what_nobody_used(
    make_client: MakeClient, openai_server: OpenAiServer, tmp_path: Path
) -> None:
    openai_server.behaviour.models = ["loopback-1", "other"]
    make_client().answer([ask("one"), ask("two")])
    make_client(model="other").answer([ask("three")])
    shown = run("show", "--rows", "1")
    # 2 answers of 1 token each way at 1 $ and 2 $ a million are 6e-6 $.
    assert f"loopback-1 ({openai_server.url}): 2 answers, 2 + 2 tokens, 0.0000 US dollars" in shown
    assert '"text": "three"' in shown
    assert "other" not in run("show", "--model", "loopback-1")
    assert run("prune", "--unused-days", "1").startswith("removed 0 answers")
    time.sleep(0.01)
    # What was used since counts as used, though it was made before.
    between = time.time()
    time.sleep(0.01)
    make_client().answer([ask("one")])
    days = (time.time() - between) / 86400
    assert run("prune", "--unused-days", f"{days:.12f}").startswith("removed 2 answers")
    assert make_client().estimate([ask("one"), ask("two")]).cached == 1


def test_a_store_where_no_model_was_asked_says_so(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("CHATLLAMA_STORE", str(tmp_path))
    with pytest.raises(AbsentError, match="no model was asked from this store yet"):
        run("show")


class Counted(sqlite3.Connection):
    """Notes each statement, and a transaction of many as one."""

    statements: ClassVar[list[str]] = []

    def execute(self, sql: str, *arguments: Any) -> sqlite3.Cursor:
        self.statements.append(sql)
        return super().execute(sql, *arguments)

    def executemany(self, sql: str, *arguments: Any) -> sqlite3.Cursor:
        self.statements.append(sql)
        return super().executemany(sql, *arguments)


def test_cached_rows_are_read_by_few_statements_however_many_they_are(
    make_client: MakeClient,
    openai_server: OpenAiServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rows = [ask(f"row {number}: how do I grow basil?") for number in range(2_000)]
    monkeypatch.setattr(sqlite3, "connect", partial(sqlite3.connect, factory=Counted))
    client = make_client()
    cache = AnswerCache(cache_file(tmp_path / "store"))
    reply = LlmReply("In the sun. " * 20, "stop", 10, 60, False, "loopback-1")
    for asked in client._asked(rows):  # type: ignore[attr-defined]
        cache.write(asked, reply, 0.0, "run")
    cache.close()
    Counted.statements.clear()
    answers = client.answer(rows)
    assert all(isinstance(answer, LlmReply) and answer.cached for answer in answers)
    assert openai_server.seen == []
    assert 0 < len(Counted.statements) < 20


def test_an_answer_and_its_payment_are_kept_both_or_neither(tmp_path: Path) -> None:
    cache = AnswerCache(tmp_path / "answers.sqlite")
    asked = Asked("key", "openai", "http://x/v1", "m", ask("a"))
    broken = LlmReply("text", "stop", 1, 2**70, False, "m")
    with pytest.raises(OverflowError):
        cache.write(asked, broken, 0.5, "run")
    assert cache.paid("run") == 0.0
    cache.write(asked, LlmReply("text", "stop", 1, 1, False, "m"), 0.5, "run")
    cache.charge("run", 0.25, "timeout")
    assert cache.paid("run") == 0.75
    assert cache.paid("another") == 0.0
    cache.close()


def test_a_file_that_is_no_database_is_named_with_the_cure(tmp_path: Path) -> None:
    (tmp_path / "answers.sqlite").write_text("not a database, but long enough to be looked at" * 9)
    with pytest.raises(StoreError, match=r"answers\.sqlite: .* or move the file away"):
        AnswerCache(tmp_path / "answers.sqlite")
