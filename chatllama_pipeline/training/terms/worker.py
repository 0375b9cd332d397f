"""`python -P worker.py FILE RECEIVE SEND NAME...`: the process of a person's reward functions.

RECEIVE and SEND are file descriptors on which lines of JSON come and go; whatever the functions
print goes to stderr. Told are "ready", "began" and "ended" with a function and its row (null where
it gets all at once), "values", and "refused" with what is wrong. Imports the standard library
alone.
"""

from __future__ import annotations

import asyncio
import importlib.util
import inspect
import json
import math
import numbers
import os
import sys
import traceback
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TextIO

MODULE = "rewards"
# Functions with these parameters get all rows at once.
ALL_AT_ONCE = ("prompts", "replies")
ASYNC_AT_ONCE = 16
# Beyond it, squares and sums of rewards stop being numbers.
LARGEST = 1e30


class Prompt(str):
    """What functions get: the last turn's text; `messages` are all turns, each role and content."""

    messages: list[dict[str, str]]

    @classmethod
    def of(cls, messages: list[dict[str, str]]) -> Prompt:
        prompt = cls(messages[-1]["content"] if messages else "")
        prompt.messages = messages
        return prompt


class Refused(Exception):
    """What is wrong with the file, a function or a value, without saying which."""


def load(file: Path) -> Any:
    """The module of `file`; raises Refused where it doesn't import."""
    spec = importlib.util.spec_from_file_location(MODULE, file)
    if spec is None or spec.loader is None:
        raise Refused("is no Python file: name it with the ending .py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[MODULE] = module
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        raise Refused(f"doesn't import: {told(error, file)}") from error
    return module


def find(module: Any, name: str) -> Callable[..., Any]:
    """The function `name`; raises Refused where there is none that takes a prompt and a reply."""
    found = getattr(module, name, None)
    if found is None:
        raise Refused("isn't in the file")
    if not callable(found):
        raise Refused(f"is a {type(found).__name__} and no function")
    function: Callable[..., Any] = found
    try:
        inspect.signature(function).bind("", "")
    except TypeError as error:
        raise Refused(
            f"can't be called with a prompt and a reply ({error}): write def {name}(prompt, reply)"
        ) from None
    except ValueError:  # some of what is written in C has no signature
        pass
    return function


def takes_all(function: Callable[..., Any]) -> bool:
    """Whether a function's parameters are named `prompts` and `replies`."""
    try:
        return tuple(inspect.signature(function).parameters)[:2] == ALL_AT_ONCE
    except (TypeError, ValueError):
        return False


def told(error: BaseException, file: Path) -> str:
    """An exception in a line, with the line of `file` that it came by."""
    lines = [
        at.lineno for at in traceback.extract_tb(error.__traceback__) if at.filename == str(file)
    ]
    if isinstance(error, SyntaxError) and error.filename == str(file) and error.lineno:
        lines.append(error.lineno)
    where = f" (line {lines[-1]})" if lines else ""
    text = str(error) or "no more is said"
    return f"{type(error).__name__}: {text}{where}"


def number(value: Any) -> float:
    """A value as a number; raises Refused where it is none, or not finite."""
    if getattr(value, "shape", None) == () and hasattr(value, "item"):
        value = value.item()
    if not isinstance(value, numbers.Real):
        count = f" of {len(value)} values" if isinstance(value, list | tuple) else ""
        raise Refused(f"returned a {type(value).__name__}{count}: return one number for a reply")
    try:
        found = float(value)
    except OverflowError:
        found = math.inf
    if not abs(found) <= LARGEST:
        raise Refused(f"returned {found}: return a finite number")
    return found


def numbers_of(values: Any, count: int) -> list[Any]:
    """What a function of all rows returned, as a list; raises Refused for another count."""
    if isinstance(values, str | bytes | dict) or not isinstance(values, Iterable):
        raise Refused(
            f"returned a {type(values).__name__}: return a list with a number for a reply"
        )
    found = list(values)
    if len(found) != count:
        raise Refused(f"returned {len(found)} values for {count} replies: return one for each")
    return found


class Worker:
    """Calls the functions on rows, and tells `send` what it is at."""

    def __init__(self, file: Path, names: list[str], send: TextIO) -> None:
        self._file, self._names, self._send = file, names, send
        self._at: tuple[str | None, int | None] = (None, None)
        self._functions: dict[str, Callable[..., Any]] = {}

    def serve(self, receive: TextIO) -> None:
        """Answer each line of `receive`, until it ends or something is refused."""
        try:
            module = load(self._file)
            for name in self._names:
                self._at = (name, None)
                self._functions[name] = find(module, name)
            self._tell(ready=True)
            # One loop for all: what a function opened in it stays usable. It is never closed, which
            # would wait for whatever a function left unfinished.
            runner = asyncio.Runner()
            for line in receive:
                rows = json.loads(line)
                prompts = [Prompt.of(messages) for messages in rows["prompts"]]
                values = {
                    name: self._values(runner, name, prompts, rows["replies"])
                    for name in self._names
                }
                self._tell(values=values)
        except Refused as refused:
            function, row = self._at
            self._tell(refused=str(refused), name=function, row=row)

    def _values(
        self, runner: asyncio.Runner, name: str, prompts: list[Prompt], replies: list[str]
    ) -> list[float]:
        function = self._functions[name]
        if takes_all(function):
            given = self._called(runner, name, None, prompts, replies)
            self._at = (name, None)
            listed = numbers_of(given, len(replies))
            return [self._number(name, row, value) for row, value in enumerate(listed)]
        if inspect.iscoroutinefunction(function):
            return runner.run(self._side_by_side(name, prompts, replies))
        rows = enumerate(zip(prompts, replies, strict=True))
        return [
            self._number(name, row, self._called(runner, name, row, *pair)) for row, pair in rows
        ]

    def _called(self, runner: asyncio.Runner, name: str, row: int | None, *given: Any) -> Any:
        self._tell(began=name, row=row)
        try:
            value = self._functions[name](*given)
            if inspect.isawaitable(value):
                value = runner.run(_awaited(value))
        except (Exception, SystemExit) as error:
            self._at = (name, row)
            raise Refused(f"raised {told(error, self._file)}") from error
        self._tell(ended=name, row=row)
        return value

    async def _side_by_side(
        self, name: str, prompts: list[Prompt], replies: list[str]
    ) -> list[float]:
        places = asyncio.Semaphore(ASYNC_AT_ONCE)

        async def one(row: int) -> float:
            async with places:
                self._tell(began=name, row=row)
                try:
                    value = await self._functions[name](prompts[row], replies[row])
                except (Exception, SystemExit) as error:
                    self._at = (name, row)
                    raise Refused(f"raised {told(error, self._file)}") from error
                self._tell(ended=name, row=row)
            return self._number(name, row, value)

        return list(await asyncio.gather(*map(one, range(len(replies)))))

    def _number(self, name: str, row: int, value: Any) -> float:
        try:
            return number(value)
        except Refused:
            self._at = (name, row)
            raise

    def _tell(self, **what: Any) -> None:
        self._send.write(json.dumps(what) + "\n")
        self._send.flush()


async def _awaited(value: Any) -> Any:
    return await value


def main(argv: list[str]) -> None:
    file, receive, send, *names = argv
    # A folder of compiled code beside the file would be a change of the assistant's files.
    sys.dont_write_bytecode = True
    with (
        os.fdopen(int(receive), encoding="utf-8") as asked,
        os.fdopen(int(send), "w", encoding="utf-8") as answered,
    ):
        Worker(Path(file), names, answered).serve(asked)
    # Threads that the functions left behind keep nobody waiting.
    sys.stderr.flush()
    os._exit(0)


if __name__ == "__main__":
    main(sys.argv[1:])
