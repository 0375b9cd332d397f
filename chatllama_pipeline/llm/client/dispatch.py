"""Many calls at once: retried, limited, held to the budget, and each answer handed on at once.

A call that failed goes back into the queue with the time from which it may be tried again, so that
its worker takes another meanwhile. What concerns every call stops the sending; calls under way
still come home, since they are paid for.
"""

from __future__ import annotations

import asyncio
import contextlib
import heapq
import itertools
import random
import re
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from chatllama_pipeline.errors import BudgetError, ProviderError
from chatllama_pipeline.llm.client.cache import Asked
from chatllama_pipeline.llm.client.limits import Breaker, RateLimiter
from chatllama_pipeline.llm.client.money import Budget, Tariff, likely_prompt_tokens
from chatllama_pipeline.llm.client.refusals import CallError
from chatllama_pipeline.llm.client.requests import LlmFailure, LlmReply, LlmRequest
from chatllama_pipeline.settings import RoleSettings

MOST_ATTEMPTS = 8
# Attempts at a server that nobody has reached yet: a wrong base_url should be told soon.
_FIRST_ATTEMPTS = 3
_FIRST_WAIT, _LONGEST_WAIT = 0.5, 30.0
LONGEST_RETRY_AFTER = 120.0
# So many refused in a row with the same words: no other would be answered.
_REFUSED_IN_A_ROW = 20
_NUMBERS = re.compile(r"[0-9a-f]*\d[0-9a-f-]*")
_FEWEST_FAILURES_TO_REST = 8
# Workers that start together stay together: each of their calls then waits for the CPU time of all
# the others'. Apart from one another they find it free.
_SPACING, _MOST_SPACING = 0.004, 0.2


@dataclass
class _Job:
    asked: Asked
    attempts: int = 0


class Dispatcher:
    """Sends the requests of one `answer`. `on_reply(asked, reply, usd)`, `on_failure(asked,
    failure)`, `on_charge(usd, why)` and `on_retry()` are told of each as it happens."""

    def __init__(
        self,
        call: Callable[[LlmRequest], Awaitable[LlmReply]],
        role: RoleSettings,
        tariff: Tariff,
        budget: Budget,
        *,
        on_reply: Callable[[Asked, LlmReply, float | None], None],
        on_failure: Callable[[Asked, LlmFailure], None],
        on_charge: Callable[[float, str], None],
        on_retry: Callable[[], None],
    ) -> None:
        self._call, self._role, self._tariff, self._budget = call, role, tariff, budget
        self._on_reply, self._on_failure = on_reply, on_failure
        self._on_charge, self._on_retry = on_charge, on_retry
        self._limiter = RateLimiter(role.requests_per_minute, role.tokens_per_minute)
        self._breaker = Breaker(max(_FEWEST_FAILURES_TO_REST, role.concurrency))
        self._ready: deque[_Job] = deque()
        self._delayed: list[tuple[float, int, _Job]] = []
        self._order = itertools.count()
        self._under_way = 0
        self._reached = self._answered = False
        self._refused_in_a_row, self._refused_with = 0, ""
        self._last = ""
        self._stop: Exception | None = None
        self._changed = asyncio.Event()

    async def run(self, work: Sequence[Asked]) -> None:
        """Ask all of `work`; raises ProviderError or BudgetError once nothing is under way."""
        self._ready.extend(_Job(asked) for asked in work)
        count = min(self._role.concurrency, len(self._ready))
        workers = [
            asyncio.create_task(self._work(number * min(_SPACING, _MOST_SPACING / count)))
            for number in range(count)
        ]
        try:
            await asyncio.gather(*workers)
        finally:
            for worker in workers:
                worker.cancel()
        if self._stop is not None:
            raise self._stop

    async def _work(self, delay: float) -> None:
        await asyncio.sleep(delay)
        while (job := await self._next()) is not None:
            try:
                await self._ask(job)
            finally:
                self._under_way -= 1
                self._tell_change()

    async def _next(self) -> _Job | None:
        """The next job that may be asked; None where nothing is left or all must stop."""
        now = asyncio.get_running_loop().time
        while self._stop is None:
            if self._ready:
                job = self._ready.popleft()
            elif self._delayed and self._delayed[0][0] <= now():
                job = heapq.heappop(self._delayed)[2]
            elif self._delayed or self._under_way:
                await self._change(self._delayed[0][0] - now() if self._delayed else None)
                continue
            else:
                return None
            self._under_way += 1
            return job
        return None

    async def _ask(self, job: _Job) -> None:
        request = job.asked.request
        expected = likely_prompt_tokens(request) + request.max_tokens
        await self._breaker.turn()
        if self._breaker.given_up:
            self._halt(
                ProviderError(f"{self._role.key}: {self._where()} stays out of order{self._last}")
            )
        if self._stop is None:
            await self._limiter.turn(expected)
        most = self._tariff.most_usd(request)
        ticket = await self._reserve(most)
        if ticket is None:
            self._ready.append(job)
            return
        job.attempts += 1
        paid = 0.0
        try:
            reply = await self._call(request)
            usd = self._tariff.usd(reply.prompt_tokens, reply.completion_tokens)
            paid = usd or 0.0
        except CallError as error:
            paid = most if error.charged else 0.0
            self._failed(job, error, paid)
            return
        except BaseException:
            # Interrupted: the provider may charge what it was asked.
            paid = most
            self._on_charge(most, "interrupted")
            raise
        finally:
            self._budget.settle(ticket, paid)
        self._reached = self._answered = True
        self._refused_in_a_row = 0
        self._limiter.used(expected, reply.prompt_tokens + reply.completion_tokens)
        self._breaker.succeeded()
        self._on_reply(job.asked, reply, usd)

    async def _reserve(self, usd: float) -> int | None:
        """A ticket of the budget; waits for others to settle where that may make room."""
        while self._stop is None:
            ticket = self._budget.reserve(usd)
            if ticket is not None:
                return ticket
            if not self._budget.under_way:
                self._halt(no_budget(self._role, self._budget, usd))
                return None
            await self._change(None)
        return None

    def _failed(self, job: _Job, error: CallError, charged: float) -> None:
        self._reached |= error.reached
        if charged:
            self._on_charge(charged, error.reason)
        if error.scope == "provider" or (error.scope == "protocol" and not self._answered):
            self._halt(ProviderError(error.detail))
            # The row wasn't refused for its own sake: it is asked again in the next run.
            return
        if error.scope == "request":
            self._breaker.succeeded()
            self._on_failure(job.asked, LlmFailure(error.reason, error.detail, retryable=False))
            self._count_refused(error)
            return
        self._last = f" ({error.reason}). It said: {error.detail}"
        wait = error.retry_after or 0.0
        self._breaker.failed(wait)
        if wait > LONGEST_RETRY_AFTER:
            told = f"asks to wait {wait:.0f} s; run again after that. It said: {error.detail}"
            self._halt(ProviderError(f"{self._role.key}: {self._where()} {told}"))
        elif not self._reached and (job.attempts >= _FIRST_ATTEMPTS or self._breaker.is_open):
            told = f"does not answer ({error.detail}): is base_url right, and the server running?"
            self._halt(ProviderError(f"{self._role.key}: {self._where()} {told}"))
        elif job.attempts >= MOST_ATTEMPTS:
            self._on_failure(job.asked, LlmFailure(error.reason, error.detail, retryable=True))
        else:
            self._again(job, wait)

    def _count_refused(self, error: CallError) -> None:
        """Stop after many in a row that were refused with the same words, but for their numbers."""
        if error.reason != "bad_request":
            return
        same = _NUMBERS.sub("", error.detail)
        self._refused_in_a_row = self._refused_in_a_row + 1 if same == self._refused_with else 1
        self._refused_with = same
        if self._refused_in_a_row >= _REFUSED_IN_A_ROW:
            told = f"{self._where()} refuses every request. It said: {error.detail}"
            self._halt(ProviderError(f"{self._role.key}: {told}"))

    def _again(self, job: _Job, wait: float) -> None:
        """Back into the queue, after what the server asked for or else a growing, random wait."""
        if wait:
            self._limiter.hold(wait)
            wait *= random.uniform(1.0, 1.25)
        else:
            longest = min(_FIRST_WAIT * 2 ** (job.attempts - 1), _LONGEST_WAIT)
            wait = longest * random.uniform(0.5, 1.0)
        due = asyncio.get_running_loop().time() + wait
        heapq.heappush(self._delayed, (due, next(self._order), job))
        self._on_retry()

    def _halt(self, error: Exception) -> None:
        """Send nothing more; the first reason is the one that is told."""
        self._stop = self._stop or error
        self._breaker.stop()
        self._limiter.stop()
        self._tell_change()

    def _where(self) -> str:
        return f"{self._role.base_url} (model {self._role.model})"

    def _tell_change(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    async def _change(self, seconds: float | None) -> None:
        changed = self._changed
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await changed.wait()


def no_budget(role: RoleSettings, budget: Budget, usd: float) -> BudgetError:
    """The error of a call that may cost `usd`, which is more than is left."""
    return BudgetError(
        f"llm.max_usd is {budget.max_usd:g}: {budget.paid:.4f} US dollars are paid, and the next "
        f"call to {role.model} may cost up to {usd:.4f}. Nothing more was sent; all answers that "
        f"were paid for are kept. Raise llm.max_usd and run again, or lower {role.key}.max_tokens "
        "or the number of rows"
    )
