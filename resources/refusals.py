"""Errors raised on purpose end a step by their message alone, in the terminal and in the UI."""

import contextlib
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


@contextlib.contextmanager
def refusals() -> Iterator[None]:
    """Turns each error raised on purpose into a failure of the step; also as a decorator.

    Any other error keeps its traceback: nobody expected it.
    """
    show_tracebacks()
    try:
        yield
    except ChatllamaError as error:
        _hide_tracebacks()
        raise Refused(str(error)) from None


def refusing(build: Callable[..., Iterator[Any]]) -> Callable[..., Iterator[Any]]:
    """The function of an asset, which yields its results, within `refusals`."""

    @functools.wraps(build)
    def step(*arguments: Any, **named: Any) -> Iterator[Any]:
        with refusals():
            yield from build(*arguments, **named)

    return step


def show_tracebacks() -> None:
    """Undo what the last refusal did; the store's resource calls it as the run ends."""
    if hasattr(sys, "tracebacklimit"):
        del sys.tracebacklimit


def _hide_tracebacks() -> None:
    # Dagster records an error with all its frames, most of them its own, once it left the step.
    sys.tracebacklimit = 0
