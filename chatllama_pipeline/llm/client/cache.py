"""Answers by content of their request, and what they cost, in one SQLite file of the store.

    <store>/_llm/answers.sqlite

    answers     one row per request ever answered: the request in full, the reply, tokens, money
    payments    what each making of an asset (its scope) has paid
    unanswered  in how many runs a request failed for a reason that might pass
    batches     batches of the Batch API that were submitted and not yet collected
    askers      which assistants asked each request: one may be forgotten

Any number of processes may read and write it (WAL, short transactions). An answer is committed the
moment it arrives, and a killed process leaves whole rows only. It needs a local disk: SQLite's
locks don't hold on every network file system.
"""

from __future__ import annotations

import contextlib
import json
import sqlite3
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from chatllama_pipeline.errors import StoreError
from chatllama_pipeline.llm.client.requests import LlmReply, LlmRequest
from chatllama_pipeline.store.locks.write_ahead import use_write_ahead_log

_LOOKUP_ROWS = 500
_LOCK_SECONDS = 60.0
_BATCH_SECONDS = 30 * 86400
_SCHEMA = """
CREATE TABLE IF NOT EXISTS answers (
    key TEXT PRIMARY KEY, provider TEXT NOT NULL, place TEXT NOT NULL, model TEXT NOT NULL,
    request TEXT NOT NULL, text TEXT NOT NULL, finish_reason TEXT NOT NULL,
    prompt_tokens INTEGER NOT NULL, completion_tokens INTEGER NOT NULL,
    usd REAL, created REAL NOT NULL, used REAL NOT NULL
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS payments (
    scope TEXT NOT NULL, usd REAL NOT NULL, what TEXT NOT NULL, at REAL NOT NULL
);
CREATE INDEX IF NOT EXISTS payments_by_scope ON payments (scope);
CREATE TABLE IF NOT EXISTS unanswered (
    key TEXT PRIMARY KEY, runs INTEGER NOT NULL, at REAL NOT NULL
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS batches (
    token TEXT PRIMARY KEY, scope TEXT NOT NULL, place TEXT NOT NULL, id TEXT,
    keys TEXT NOT NULL, reserved_usd REAL NOT NULL, submitted REAL NOT NULL
);
CREATE TABLE IF NOT EXISTS askers (
    key TEXT NOT NULL, assistant TEXT NOT NULL, PRIMARY KEY (key, assistant)
) WITHOUT ROWID;
"""


def cache_file(store: Path) -> Path:
    """Where the answers of a store stand."""
    return store / "_llm" / "answers.sqlite"


@dataclass(frozen=True)
class Asked:
    """A request with its key; `provider`, `place` (URL or folder) and `model` tell who is asked."""

    key: str
    provider: str
    place: str
    model: str
    request: LlmRequest


@dataclass(frozen=True)
class SentBatch:
    """A batch that was submitted, or was about to be where `id` is None."""

    token: str
    id: str | None
    keys: list[str]
    reserved_usd: float


@dataclass(frozen=True)
class ModelAnswers:
    """All cached answers of one model at one place."""

    provider: str
    place: str
    model: str
    answers: int
    prompt_tokens: int
    completion_tokens: int
    usd: float
    last_used: float


@dataclass(frozen=True)
class Forgotten:
    """Answers that went with an assistant, that others asked too, and that are nobody's."""

    removed: int
    shared: int
    nobodys: int


class AnswerCache:
    """The answers of one store. Raises StoreError, naming the file, for what SQLite refuses.

    For one thread at a time, whichever that is.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        # Prompts may be private.
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with self._told():
            self._db = sqlite3.connect(
                path, timeout=_LOCK_SECONDS, isolation_level=None, check_same_thread=False
            )
            use_write_ahead_log(self._db, _LOCK_SECONDS)
            # A power cut may cost the last answers, never the file; a killed process costs none.
            self._db.execute("PRAGMA synchronous = NORMAL")
            self._db.executescript(_SCHEMA)

    def close(self) -> None:
        self._db.close()

    def read(self, keys: Sequence[str], scope: str = "") -> dict[str, LlmReply]:
        """The cached replies among `keys`; each counts as used now, and as asked by `scope`."""
        found: dict[str, LlmReply] = {}
        with self._told():
            for start in range(0, len(keys), _LOOKUP_ROWS):
                part = keys[start : start + _LOOKUP_ROWS]
                marks = ",".join("?" * len(part))
                rows = self._db.execute(
                    "SELECT key, text, finish_reason, prompt_tokens, completion_tokens, model "
                    f"FROM answers WHERE key IN ({marks})",
                    part,
                )
                for key, text, finish, prompt, completion, model in rows:
                    found[key] = LlmReply(text, finish, prompt, completion, True, model)
            if found:
                with self._transaction():
                    self._db.executemany(
                        "UPDATE answers SET used = ? WHERE key = ?",
                        [(time.time(), key) for key in found],
                    )
                    self._note_askers(list(found), scope)
        return found

    def write(self, asked: Asked, reply: LlmReply, usd: float | None, scope: str) -> None:
        """Keep an answer and what it cost, both or neither."""
        now, request = time.time(), asked.request
        told = {
            "messages": [[message.role, message.content] for message in request.messages],
            "temperature": request.temperature,
            "max_tokens": request.max_tokens,
            "seed": request.seed,
            "sample": request.sample,
            "json_schema": request.json_schema,
        }
        row = (
            asked.key, asked.provider, asked.place, asked.model, json.dumps(told), reply.text,
            reply.finish_reason, reply.prompt_tokens, reply.completion_tokens, usd, now, now,
        )  # fmt: skip
        with self._told(), self._transaction():
            marks = ",".join("?" * len(row))
            self._db.execute(f"INSERT OR REPLACE INTO answers VALUES ({marks})", row)
            if usd:
                self._db.execute(
                    "INSERT INTO payments VALUES (?, ?, 'answer', ?)", (scope, usd, now)
                )
            self._note_askers([asked.key], scope)

    def charge(self, scope: str, usd: float, what: str) -> None:
        """Count money that may have been charged without an answer to show for it."""
        with self._told():
            self._db.execute(
                "INSERT INTO payments VALUES (?, ?, ?, ?)", (scope, usd, what, time.time())
            )

    def paid(self, scope: str) -> float:
        """US dollars that a scope has paid so far, in all its runs."""
        with self._told():
            row = self._db.execute("SELECT SUM(usd) FROM payments WHERE scope = ?", (scope,))
            return float(row.fetchone()[0] or 0.0)

    def count_unanswered(self, keys: Sequence[str]) -> dict[str, int]:
        """Count one more run that ended without an answer to `keys`; in how many each did."""
        found = {}
        with self._told(), self._transaction():
            for key in keys:
                row = self._db.execute(
                    "INSERT INTO unanswered VALUES (?, 1, ?) ON CONFLICT (key) "
                    "DO UPDATE SET runs = runs + 1, at = excluded.at RETURNING runs",
                    (key, time.time()),
                )
                found[key] = int(row.fetchone()[0])
        return found

    def put_batch(self, batch: SentBatch, scope: str, place: str) -> None:
        """Remember a batch before it is submitted, and its id after."""
        row = (batch.token, scope, place, batch.id, json.dumps(batch.keys), batch.reserved_usd)
        with self._told():
            self._db.execute(
                "INSERT OR REPLACE INTO batches VALUES (?, ?, ?, ?, ?, ?, ?)", (*row, time.time())
            )

    def batches(self, place: str) -> list[SentBatch]:
        """The batches of a place that were not collected yet, oldest first."""
        with self._told():
            rows = self._db.execute(
                "SELECT token, id, keys, reserved_usd FROM batches WHERE place = ? "
                "ORDER BY submitted",
                (place,),
            )
            return [SentBatch(token, id_, json.loads(keys), usd) for token, id_, keys, usd in rows]

    def drop_batch(self, token: str) -> None:
        """Forget a batch whose answers are kept."""
        with self._told():
            self._db.execute("DELETE FROM batches WHERE token = ?", (token,))

    def by_model(self) -> list[ModelAnswers]:
        """What is kept, per model and place."""
        with self._told():
            rows = self._db.execute(
                "SELECT provider, place, model, COUNT(*), SUM(prompt_tokens), "
                "SUM(completion_tokens), TOTAL(usd), MAX(used) FROM answers "
                "GROUP BY provider, place, model ORDER BY provider, place, model"
            )
            return [ModelAnswers(*row) for row in rows]

    def sample(self, count: int, model: str | None = None) -> list[dict[str, Any]]:
        """The newest `count` requests with their replies."""
        with self._told():
            rows = self._db.execute(
                "SELECT model, request, text FROM answers WHERE ? IS NULL OR model = ? "
                "ORDER BY created DESC LIMIT ?",
                (model, model, count),
            )
            return [{"model": m, "request": json.loads(r), "text": t} for m, r, t in rows]

    def prune(self, unused_since: float, model: str | None = None) -> int:
        """Remove answers last used before that time (seconds since 1970); returns how many."""
        with self._told():
            removed = self._db.execute(
                "DELETE FROM answers WHERE used < ? AND (? IS NULL OR model = ?)",
                (unused_since, model, model),
            ).rowcount
            # Providers keep a batch's answers for a month.
            self._db.execute(
                "DELETE FROM batches WHERE submitted < ?", (time.time() - _BATCH_SECONDS,)
            )
            self._db.execute("DELETE FROM unanswered WHERE at < ?", (unused_since,))
            self._db.execute("DELETE FROM askers WHERE key NOT IN (SELECT key FROM answers)")
            self._shrink()
        return removed

    def forget(self, assistant: str) -> Forgotten:
        """Remove the answers that this assistant alone asked for, and all that it paid."""
        its_own = "%/" + assistant.replace("_", "\\_") + "/%"
        with self._told(), self._transaction():
            asked = "SELECT key FROM askers WHERE assistant = ?"
            others = "SELECT key FROM askers WHERE assistant != ?"
            removed = self._db.execute(
                f"DELETE FROM answers WHERE key IN ({asked}) AND key NOT IN ({others})",
                (assistant, assistant),
            ).rowcount
            shared = self._db.execute(
                f"SELECT COUNT(*) FROM answers WHERE key IN ({asked})", (assistant,)
            ).fetchone()[0]
            nobodys = self._db.execute(
                "SELECT COUNT(*) FROM answers WHERE key NOT IN (SELECT key FROM askers)"
            ).fetchone()[0]
            self._db.execute("DELETE FROM askers WHERE assistant = ?", (assistant,))
            for table in ("payments", "batches"):
                self._db.execute(f"DELETE FROM {table} WHERE scope LIKE ? ESCAPE '\\'", (its_own,))
        with self._told():
            self._shrink()
        return Forgotten(removed, int(shared), int(nobodys))

    def _note_askers(self, keys: Sequence[str], scope: str) -> None:
        """A scope is asset/assistant/fingerprint; what has none is nobody's."""
        parts = scope.split("/")
        if len(parts) == 3:
            self._db.executemany(
                "INSERT OR IGNORE INTO askers VALUES (?, ?)", [(key, parts[1]) for key in keys]
            )

    def _shrink(self) -> None:
        # What was removed is gone from the file, not only from its tables.
        self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        self._db.execute("VACUUM")
        self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)")

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[None]:
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            self._db.execute("ROLLBACK")
            raise
        self._db.execute("COMMIT")

    @contextlib.contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            raise StoreError(
                f"{self.path}: {error}; free space on its disk, or move the file away "
                "(its answers would be asked and paid for again)"
            ) from error
