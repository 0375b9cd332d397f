"""Errors raised on purpose end a step by their message alone, in the terminal and in the UI."""

import functools
import sys
from collections.abc import Callable, Iterator
from typing import Any

import dagster as dg

from chatllama_pipeline.errors import ChatllamaError


class Refused(dg.Failure):
    """What the pipeline refuses to do, why, and the cure; trying the same again changes nothing."""

    def __init__(self, message: str) -> None:
        super().__init__(message, allow_retries=False)


def refusing(build: Callable[..., Iterator[Any]]) -> Callable[..., Iterator[Any]]:
    """`build`, an asset's function, with each error raised on purpose as a failure of its step.

    Any other error keeps its traceback: nobody expected it.
    """

    @functools.wraps(build)
    def step(*arguments: Any, **named: Any) -> Iterator[Any]:
        show_tracebacks()
        try:
            yield from build(*arguments, **named)
        except ChatllamaError as error:
            _hide_tracebacks()
            raise Refused(str(error)) from None

    return step


def show_tracebacks() -> None:
    """Undo what the last refusal did; the store's resource calls it as the run ends."""
    if hasattr(sys, "tracebacklimit"):
        del sys.tracebacklimit


def _hide_tracebacks() -> None:
    # Dagster records an error with all its frames, most of them its own, once it left the step.
    sys.tracebacklimit = 0
