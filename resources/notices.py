"""Notices of what became of an assistant, to the webhook that `CHATLLAMA_WEBHOOK` names.

One JSON object by POST. Whoever receives it can't hold a run up: it has seconds, whatever it does.
"""

import dataclasses
import json
import os
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal
from urllib.parse import urlsplit

WEBHOOK = "CHATLLAMA_WEBHOOK"
TRIES = 3
# Between tries; each waits twice as long as the one before.
PAUSE_SECONDS = 1.0
# Of all tries together.
MOST_SECONDS = 10.0


@dataclass(frozen=True)
class Notice:
    """What happened to an assistant; `text` is it in words, as chat services show it."""

    event: Literal["failed", "held_back", "released", "stale"]
    assistant: str
    message: str
    run: str = ""
    version: str = ""
    figures: dict[str, Any] = field(default_factory=dict)

    def payload(self) -> dict[str, Any]:
        """What is sent: the fields, when (UTC), and `text`."""
        text = f"{self.assistant}: {self.event.replace('_', ' ')}: {self.message}"
        at = datetime.now(UTC).isoformat(timespec="seconds")
        return {**dataclasses.asdict(self), "at": at, "text": text}


def tell(notice: Notice, warn: Callable[[str], None], most_seconds: float = MOST_SECONDS) -> None:
    """Send a notice where a webhook is set, in `most_seconds` at most.

    What goes wrong is a warning without the address's path, which is often a secret.
    """
    url = os.environ.get(WEBHOOK, "")
    if not url:
        return
    address = urlsplit(url)
    if address.scheme not in ("http", "https") or not address.hostname:
        warn(
            f"{WEBHOOK} is no http(s) address: nobody was told that {notice.assistant} is "
            f"{notice.event}"
        )
        return
    given_up, faults = threading.Event(), [f"no answer in {most_seconds:g} s"]
    sender = threading.Thread(
        target=_send, args=(url, json.dumps(notice.payload()), given_up, faults), daemon=True
    )
    sender.start()
    sender.join(most_seconds)
    given_up.set()
    if faults[-1]:
        warn(
            f"the webhook at {address.hostname} ({WEBHOOK}) was not told that {notice.assistant} "
            f"is {notice.event}: {faults[-1]}"
        )


def _send(url: str, content: str, given_up: threading.Event, faults: list[str]) -> None:
    """Try until it is taken; the last of `faults` is why it isn't, "" once it is."""
    # Whoever loads the definitions doesn't wait for it.
    import httpx

    for attempt in range(TRIES):
        if attempt and given_up.wait(PAUSE_SECONDS * 2 ** (attempt - 1)):
            return
        try:
            headers = {"Content-Type": "application/json"}
            answer = httpx.post(url, content=content, headers=headers, timeout=MOST_SECONDS)
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            faults.append(type(error).__name__)
            continue
        if answer.is_success:
            faults.append("")
            return
        faults.append(f"HTTP {answer.status_code}")
        if answer.status_code < 500 and answer.status_code != httpx.codes.TOO_MANY_REQUESTS:
            return
