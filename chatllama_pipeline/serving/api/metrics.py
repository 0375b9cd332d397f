"""What the server counts, in Prometheus' format."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

_SECONDS = (0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100, 300)


class Metrics:
    """Counts of one server; `in_flight` tells how many replies are written or wait."""

    def __init__(self, in_flight: Callable[[], float]) -> None:
        self._registry = registry = CollectorRegistry()
        self.requests = Counter(
            "chatllama_requests", "Requests answered", ("path", "status"), registry=registry
        )
        self.tokens = Counter(
            "chatllama_tokens", "Tokens read and written", ("kind", "version"), registry=registry
        )
        self.cancelled = Counter(
            "chatllama_cancelled", "Replies whose client left", registry=registry
        )
        self.first_token = Histogram(
            "chatllama_first_token_seconds",
            "From a request to the first of its reply's tokens",
            buckets=_SECONDS,
            registry=registry,
        )
        self.reply = Histogram(
            "chatllama_reply_seconds",
            "From a request to the end of its reply",
            buckets=_SECONDS,
            registry=registry,
        )
        self._versions = Gauge(
            "chatllama_version_share",
            "The share of a version",
            ("version", "engine"),
            registry=registry,
        )
        Gauge(
            "chatllama_in_flight", "Replies that are written or wait", registry=registry
        ).set_function(in_flight)

    def show_versions(self, shares: dict[tuple[str, str], float]) -> None:
        """Which versions speak by which engines, and their shares."""
        self._versions.clear()
        for (version, engine), share in shares.items():
            self._versions.labels(version, engine).set(share)

    def text(self) -> bytes:
        """All counts, as Prometheus reads them."""
        return generate_latest(self._registry)
