"""OpenAI's Batch API: half the price, answers within a day; what was submitted outlives a restart.

A batch is written down before it is submitted, under a token that it carries as metadata. A run
that was ended finds it again, by its id or, where it was ended amid submitting, by that token, and
goes on waiting: nothing is submitted twice. https://platform.openai.com/docs/guides/batch
"""

from __future__ import annotations

import contextlib
import json
import time
import uuid
from collections import deque
from collections.abc import Iterator, Sequence
from typing import Any

from chatllama_pipeline.errors import ProviderError
from chatllama_pipeline.llm.client.cache import AnswerCache, Asked, SentBatch
from chatllama_pipeline.llm.client.calls import Keeper, tariff
from chatllama_pipeline.llm.client.dispatch import no_budget
from chatllama_pipeline.llm.client.money import Budget, likely_prompt_tokens
from chatllama_pipeline.llm.client.openai_calls import CHAT, COMPLETIONS, request_body
from chatllama_pipeline.llm.client.refusals import CallError, refusal, told_of_parameter
from chatllama_pipeline.llm.client.replies import clean, read_reply, redact
from chatllama_pipeline.llm.client.requests import LlmFailure, LlmReply
from chatllama_pipeline.llm.client.sdk import open_sdk, read_key
from chatllama_pipeline.settings import RoleSettings

POLL_SECONDS = 20.0
# The API's limits are 50,000 lines and 200 MB.
MOST_LINES, MOST_BYTES = 50_000, 190_000_000

_TOKEN = "chatllama_token"
_ENDED = ("completed", "failed", "expired", "cancelled")
_DETAIL_CHARACTERS = 2000


class BatchBackend:
    """Puts requests to the Batch API and waits for their answers."""

    def __init__(self, role: RoleSettings, cache: AnswerCache, scope: str) -> None:
        self._role, self._cache, self._scope = role, cache, scope
        self._budget = Budget(role.max_usd, cache.paid(scope))
        self._tariff = tariff(role)
        self._open: dict[str, tuple[SentBatch, int]] = {}
        self._key = ""
        self._refused: CallError | None = None

    def close(self) -> None:
        """Batches under way stay: the next run collects them."""

    def run(self, work: Sequence[Asked], keep: Keeper) -> None:
        """See `client.Backend`."""
        self._key = read_key(self._role)
        wanted = {asked.key: asked for asked in work}
        with open_sdk(self._role, self._key, asynchronous=False) as client:
            self._resume(client, wanted)
            sent = {key for batch, _ in self._open.values() for key in batch.keys}
            waiting = deque(asked for key, asked in wanted.items() if key not in sent)
            while waiting or self._open:
                while waiting and self._submit(client, waiting):
                    pass
                if not self._open:
                    most = self._tariff.most_usd(waiting[0].request)
                    raise no_budget(self._role, self._budget, most)
                self._collect(client, wanted, keep)

    def _resume(self, client: Any, wanted: dict[str, Asked]) -> None:
        """Take up the batches of an earlier run that answer some of `wanted`."""
        for sent in self._cache.batches(self._role.base_url):
            if wanted.keys().isdisjoint(sent.keys):
                continue
            if sent.id is None:
                found = self._find(client, sent.token)
                if found is None:
                    self._cache.drop_batch(sent.token)
                    continue
                sent = SentBatch(sent.token, found, sent.keys, sent.reserved_usd)
                self._cache.put_batch(sent, self._scope, self._role.base_url)
            self._open[sent.token] = (sent, self._budget.hold(sent.reserved_usd))

    def _find(self, client: Any, token: str) -> str | None:
        with self._told():
            for batch in client.batches.list(limit=100):
                if (batch.metadata or {}).get(_TOKEN) == token:
                    return str(batch.id)
        return None

    def _submit(self, client: Any, waiting: deque[Asked]) -> bool:
        """Submit as many of `waiting` as fit into a batch and the budget; False if none do."""
        endpoint = "/v1" + (CHAT if self._role.style == "chat" else COMPLETIONS)
        lines: list[bytes] = []
        taken: list[Asked] = []
        size, usd = 0, 0.0
        while waiting and len(lines) < MOST_LINES:
            asked = waiting[0]
            body = request_body(asked.request, self._role)
            told = {"custom_id": asked.key, "method": "POST", "url": endpoint, "body": body}
            line = json.dumps(told).encode() + b"\n"
            most = self._tariff.most_usd(asked.request)
            if (lines and size + len(line) > MOST_BYTES) or not self._budget.fits(usd + most):
                break
            lines.append(line)
            taken.append(waiting.popleft())
            size, usd = size + len(line), usd + most
        if not lines:
            return False
        batch = SentBatch(uuid.uuid4().hex, None, [asked.key for asked in taken], usd)
        place = self._role.base_url
        # Written before it is sent and again with its id: whenever this run ends, it is found.
        self._cache.put_batch(batch, self._scope, place)
        with self._told():
            file = client.files.create(file=("requests.jsonl", b"".join(lines)), purpose="batch")
            created = client.with_options(max_retries=0).batches.create(
                input_file_id=file.id,
                endpoint=endpoint,
                completion_window="24h",
                metadata={_TOKEN: batch.token},
            )
        batch = SentBatch(batch.token, str(created.id), batch.keys, usd)
        self._cache.put_batch(batch, self._scope, place)
        self._open[batch.token] = (batch, self._budget.hold(usd))
        return True

    def _collect(self, client: Any, wanted: dict[str, Asked], keep: Keeper) -> None:
        """Wait for the next batch to end, and keep what it answers."""
        while True:
            for token, (batch, ticket) in list(self._open.items()):
                with self._told():
                    state = client.batches.retrieve(batch.id)
                if state.status in _ENDED:
                    paid = self._keep(client, state, batch, wanted, keep)
                    self._budget.settle(ticket, paid)
                    self._cache.drop_batch(token)
                    del self._open[token]
                    if state.status == "failed":
                        raise ProviderError(self._why(state))
                    if self._refused is not None:
                        raise ProviderError(self._refused.detail)
                    return
            time.sleep(POLL_SECONDS)

    def _keep(
        self, client: Any, state: Any, batch: SentBatch, wanted: dict[str, Asked], keep: Keeper
    ) -> float:
        """Keep every line of a batch's output and error files; returns what it cost."""
        paid, told = 0.0, set()
        for line in self._lines(client, state):
            asked = wanted.get(line["custom_id"])
            # A line that nobody waits for any more was paid all the same, but not by this run.
            if asked is None:
                continue
            told.add(asked.key)
            answer = self._answer(asked, line)
            if isinstance(answer, LlmFailure):
                keep.failure(asked, answer)
                continue
            usd = self._tariff.usd(answer.prompt_tokens, answer.completion_tokens)
            keep.reply(asked, answer, usd)
            paid += usd or 0.0
        if state.status != "failed":
            for key in batch.keys:
                if key in wanted and key not in told:
                    detail = f"the batch {batch.id} ended without it: {state.status}"
                    keep.failure(wanted[key], LlmFailure("batch_expired", detail, retryable=True))
        return paid

    def _answer(self, asked: Asked, line: dict[str, Any]) -> LlmReply | LlmFailure:
        """What a line says; a refusal that concerns all lines is told once all are kept."""
        response = line.get("response")
        if not isinstance(response, dict):
            detail = self._redacted(json.dumps(line.get("error")))
            return LlmFailure("batch_expired", detail, retryable=True)
        body, status = response.get("body"), int(response.get("status_code") or 500)
        if status == 200:
            try:
                likely = likely_prompt_tokens(asked.request)
                return read_reply(body, self._role.style, self._role.model, likely)
            except ValueError as error:
                detail = self._redacted(f"{error}: {json.dumps(body)}")
                return LlmFailure("malformed_reply", detail, retryable=True)
        text = json.dumps(line.get("error") or body)
        detail = self._redacted(f"{status} {text}")
        refused = refusal(status, text, detail, self._role, request_body(asked.request, self._role))
        if refused.scope == "parameter":
            refused = told_of_parameter(refused.parameter, detail, self._role)
        if refused.scope == "provider":
            self._refused = self._refused or refused
        return LlmFailure(refused.reason, detail, retryable=refused.scope != "request")

    def _lines(self, client: Any, state: Any) -> Iterator[dict[str, Any]]:
        for file in (state.output_file_id, state.error_file_id):
            if file:
                with self._told():
                    content = client.files.content(file).content
                yield from (json.loads(line) for line in content.splitlines() if line.strip())

    def _why(self, state: Any) -> str:
        errors = (state.errors.data or []) if state.errors else []
        told = "; ".join(self._redacted(str(error.message)) for error in errors) or "no reason told"
        return f"{self._role.key}: {self._role.base_url} refused the batch {state.id}: {told}"

    def _redacted(self, text: str) -> str:
        return redact(clean(text), self._key)[:_DETAIL_CHARACTERS]

    @contextlib.contextmanager
    def _told(self) -> Iterator[None]:
        import openai

        try:
            yield
        except openai.APIError as error:
            raise ProviderError(
                f"{self._role.key}: the Batch API of {self._role.base_url} answered: "
                f"{self._redacted(str(error))}. Batches under way are kept: run again to collect "
                f"them, or set {self._role.key}.batch: false where the server has no batches"
            ) from None
