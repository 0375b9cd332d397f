"""How fast a provider is asked: its rate limits, and a breaker for when it is down."""

from __future__ import annotations

import asyncio
import time

# How soon a waiting call sees that all has stopped.
_LOOK_SECONDS = 0.25
_FIRST_REST, _LONGEST_REST, _MOST_PROBES = 1.0, 30.0, 5


class RateLimiter:
    """Spaces calls evenly so that neither requests nor tokens per minute are passed.

    Even spacing, since providers enforce their minutes by the second. A `hold` (Retry-After)
    stops all calls until then.
    """

    def __init__(self, requests_per_minute: int | None, tokens_per_minute: int | None) -> None:
        self._seconds_per_request = 60 / requests_per_minute if requests_per_minute else 0.0
        self._seconds_per_token = 60 / tokens_per_minute if tokens_per_minute else 0.0
        self._next_request = self._next_tokens = self._held_until = 0.0
        self._stopped = False

    async def turn(self, tokens: int) -> None:
        """Wait until a call of `tokens` may be sent."""
        now = time.monotonic()
        at = max(now, self._next_request, self._next_tokens)
        self._next_request = at + self._seconds_per_request
        self._next_tokens = at + tokens * self._seconds_per_token
        while (wait := max(at, self._held_until) - time.monotonic()) > 0 and not self._stopped:
            await asyncio.sleep(min(wait, _LOOK_SECONDS))

    def used(self, expected: int, tokens: int) -> None:
        """Give back what a call used less than expected."""
        self._next_tokens -= max(0, expected - tokens) * self._seconds_per_token

    def stop(self) -> None:
        """Let all that wait go on: nothing more will be sent."""
        self._stopped = True

    def hold(self, seconds: float) -> None:
        """Send nothing for so long."""
        self._held_until = max(self._held_until, time.monotonic() + seconds)


class Breaker:
    """Opens after many failures in a row; then single calls probe whether the provider is back.

    Each probe that fails doubles the rest before the next; after `_MOST_PROBES` it has `given_up`.
    One success closes it.
    """

    def __init__(self, failures: int) -> None:
        self._limit = failures
        self._failures = self._probes = 0
        self._rest_until = 0.0
        self._probing = self._stopped = False
        self._changed = asyncio.Event()

    @property
    def is_open(self) -> bool:
        return self._failures >= self._limit

    @property
    def given_up(self) -> bool:
        return self._probes > _MOST_PROBES

    async def turn(self) -> None:
        """Wait while open; the first to come after the rest is the probe."""
        while self.is_open and not self.given_up and not self._stopped:
            rest = self._rest_until - time.monotonic()
            if rest <= 0 and not self._probing:
                self._probing = True
                return
            changed = self._changed
            try:
                await asyncio.wait_for(changed.wait(), None if rest <= 0 else rest)
            except TimeoutError:
                continue

    def succeeded(self) -> None:
        self._failures = self._probes = 0
        self._change()

    def failed(self, at_least: float = 0.0) -> None:
        """A failure that speaks of the provider, which asks to be left alone for `at_least` s."""
        was_open = self.is_open
        self._failures += 1
        if self.is_open and (self._probing or not was_open):
            rest = min(_FIRST_REST * 2**self._probes, _LONGEST_REST)
            self._rest_until = time.monotonic() + max(rest, at_least)
            self._probes += 1
        self._change()

    def stop(self) -> None:
        """Let all that wait go on: nothing more will be sent."""
        self._stopped = True
        self._change()

    def _change(self) -> None:
        self._probing = False
        self._changed.set()
        self._changed = asyncio.Event()
