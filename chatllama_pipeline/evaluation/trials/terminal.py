"""A blind trial in the terminal: one rater, one pair after another."""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Callable
from typing import TextIO

from chatllama_pipeline.data.feedback.ratings import Better
from chatllama_pipeline.evaluation.trials.votes import Shown, vote, waiting_pairs
from chatllama_pipeline.store.feedback import FeedbackLog
from chatllama_pipeline.store.trials import Trial

# What may be typed, in full or by the first letter.
BETTER: dict[str, Better] = {"left": "left", "right": "right", "tie": "tie", "neither": "neither"}
SKIP, QUIT = "skip", "quit"
QUESTION = "which is better? left, right, tie, neither, skip (later) or quit> "

Say = Callable[[str], None]


def rate_in_terminal(
    trial: Trial,
    log: FeedbackLog,
    rater: str,
    source: TextIO | None = None,
    sink: TextIO | None = None,
) -> int:
    """Show a rater the pairs that he hasn't voted on, and keep his votes, each as soon as it is
    given; returns how many are left to him.

    What is skipped comes last, and again until he quits or the input ends.
    """
    source, sink = source or sys.stdin, sink or sys.stdout

    def say(text: str) -> None:
        sink.write(text)
        sink.flush()

    waiting = deque(waiting_pairs(trial, log, rater))
    while waiting:
        say(_told(waiting[0], len(waiting)))
        answer = _ask(source, say)
        if answer == QUIT:
            break
        if answer == SKIP:
            waiting.rotate(-1)
            continue
        vote(trial, log, rater, waiting.popleft().number, BETTER[answer])
    return len(waiting)


def _told(pair: Shown, left: int) -> str:
    turns = [f"[{turn.role}] {_plain(turn.content)}" for turn in pair.prompt]
    return "\n".join(
        [
            "",
            f"--- {left} to go ---",
            *turns,
            "",
            f"LEFT:\n{_plain(pair.left)}",
            "",
            f"RIGHT:\n{_plain(pair.right)}",
            "",
            "",
        ]
    )


def _ask(source: TextIO, say: Say) -> str:
    """A word of `BETTER`, `SKIP` or `QUIT`; the end of the input quits."""
    words = (*BETTER, SKIP, QUIT)
    while True:
        say(QUESTION)
        line = source.readline()
        if not line:
            return QUIT
        typed = line.strip().lower()
        found = [word for word in words if typed and word.startswith(typed)]
        if len(found) == 1:
            return found[0]


def _plain(text: str) -> str:
    """What would steer a terminal is spelled; lines stay."""
    return "".join(one if one.isprintable() or one == "\n" else ascii(one)[1:-1] for one in text)
