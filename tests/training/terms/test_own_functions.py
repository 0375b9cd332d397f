"""A person's reward functions in their own process: what they may do, and what is told of them."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from chatllama_pipeline.errors import DataError, SettingsError
from chatllama_pipeline.records import Message, user_prompt
from chatllama_pipeline.settings import RewardsSettings
from chatllama_pipeline.training.terms.functions import Functions
from chatllama_pipeline.training.terms.worker import Refused, number, numbers_of
from tests.waiting import PATIENCE

PROMPTS = [user_prompt("alpha?"), [Message("system", "be kind"), *user_prompt("bravo, charlie?")]]
REPLIES = ["one", "two words"]
Open = Callable[..., Functions]


@pytest.fixture
def open_functions(tmp_path: Path) -> Open:
    """The functions of a rewards.py with `source`, which may keep silent for some seconds."""

    def make(source: str, *names: str, seconds: float = PATIENCE) -> Functions:
        file = tmp_path / "rewards.py"
        file.write_text(source)
        weights = dict.fromkeys(names or ("brief",), 1.0)
        return Functions(
            RewardsSettings(
                weights=weights, trust_code=True, file=str(file), silence_seconds=seconds
            )
        )

    return make


def values(functions: Functions) -> dict[str, list[float]]:
    with functions:
        functions.begin(PROMPTS, REPLIES)
        return functions.finish()


def test_functions_of_a_reply_of_all_and_async_ones_give_their_values(open_functions: Open) -> None:
    source = """
import asyncio

def brief(prompt, reply) -> float:
    return -len(reply.split())

def polite(prompt, reply):
    return "words" in reply

async def slow(prompt, reply):
    await asyncio.sleep(0.01)
    return len(prompt) + len(prompt.messages) / 10

def rank(prompts, replies):
    return [float(sorted(replies).index(reply)) for reply in replies]

async def late(prompts, replies):
    return (len(reply) for reply in replies)
"""
    assert values(open_functions(source, "brief", "polite", "slow", "rank", "late")) == {
        "brief": [-1.0, -2.0],
        "polite": [0.0, 1.0],
        "slow": [6.1, 15.2],
        "rank": [0.0, 1.0],
        "late": [3.0, 9.0],
    }


def test_async_functions_wait_side_by_side(open_functions: Open) -> None:
    source = """
import asyncio
met = asyncio.Event()
async def brief(prompt, reply):
    if reply == "two words":
        met.set()
    await met.wait()
    return 1.0
"""
    assert values(open_functions(source)) == {"brief": [1.0, 1.0]}


def test_numbers_of_numpy_and_torch_are_numbers(open_functions: Open) -> None:
    source = """
import numpy
def brief(prompt, reply):
    return numpy.array(2.5) if reply == "one" else numpy.float32(0.5)
def ranks(prompts, replies):
    return numpy.arange(len(replies))
"""
    assert values(open_functions(source, "brief", "ranks")) == {
        "brief": [2.5, 0.5],
        "ranks": [0.0, 1.0],
    }


def test_prints_go_to_stderr_and_disturb_nobody(
    open_functions: Open, capfd: pytest.CaptureFixture[str]
) -> None:
    source = """
import os, sys
print('{"values": {"brief": [9, 9]}}')
def brief(prompt, reply):
    print("at", prompt, flush=True)
    os.write(1, b'{"values": {}}\\n')
    sys.stdout.write("x" * 100_000)
    return 1
"""
    with open_functions(source) as functions:
        for _ in range(3):
            functions.begin(PROMPTS, REPLIES)
            assert functions.finish() == {"brief": [1.0, 1.0]}
    out, err = capfd.readouterr()
    assert out == ""
    assert "at alpha?" in err and err.count("x") >= 600_000


def test_the_folder_of_the_file_stays_as_it_was(open_functions: Open, tmp_path: Path) -> None:
    values(open_functions("def brief(prompt, reply):\n    return 1\n"))
    assert [path.name for path in tmp_path.iterdir()] == ["rewards.py"]


@pytest.mark.parametrize(
    ("source", "told"),
    [
        ("import no_such_module", r"doesn't import: ModuleNotFoundError: .*no_such_module.*line 1"),
        ("x = 1 / 0\ndef brief(p, r): return 1", "doesn't import: ZeroDivisionError.*line 1"),
        ("raise SystemExit('bye')", "doesn't import: SystemExit: bye"),
        ("def tidy(p, r): return 1", "brief isn't in the file"),
        ("brief = 3", "brief is a int and no function"),
        ("def brief(reply): return 1", r"brief can't be called with a prompt and a reply \(too"),
        ("def brief(a, b, c): return 1", r"brief can't be called with a prompt and a reply \(miss"),
    ],
)
def test_a_file_without_a_usable_function_is_refused_at_the_start(
    open_functions: Open, source: str, told: str
) -> None:
    with pytest.raises(SettingsError, match=rf"rewards\.py: {told}.*; correct the file"):
        open_functions(source)


ROW_2 = r"rewards\.py: brief, row 2 of 2, prompt 'bravo, charlie\?', reply 'two words': "


@pytest.mark.parametrize(
    ("begin", "body", "told"),
    [
        ("def", "1 / 0", r"raised ZeroDivisionError: division by zero \(line 4\)"),
        ("async def", "1 / 0", r"raised ZeroDivisionError: division by zero \(line 4\)"),
        ("def", "float('nan')", "returned nan: return a finite number"),
        ("async def", "(1.0, 2.0)", "returned a tuple of 2 values: return one number for a reply"),
        ("def", "input()", "raised EOFError"),
        ("def", "__import__('sys').exit(3)", "raised SystemExit: 3"),
        ("def", "__import__('os')._exit(3)", r"ended the process \(exit code 3\)"),
    ],
)
def test_what_is_no_number_is_told_with_function_row_and_reply(
    open_functions: Open, begin: str, body: str, told: str
) -> None:
    source = f"""{begin} brief(prompt, reply):
    if reply == "one":
        return 1.0
    return {body}
"""
    with pytest.raises(DataError, match=ROW_2 + told + ".*; correct the function"):
        values(open_functions(source))


@pytest.mark.parametrize(
    ("value", "told"),
    [
        (-math.inf, "returned -inf: return a finite number"),
        (1e200, r"returned 1e\+200: return a finite number"),
        (10**400, "returned inf: return a finite number"),
        (None, "returned a NoneType: return one number for a reply"),
        ("5", "returned a str: return one number for a reply"),
        ([], "returned a list of 0 values: return one number for a reply"),
        (1j, "returned a complex: return one number for a reply"),
    ],
)
def test_no_value_but_a_finite_number_passes_for_one(value: object, told: str) -> None:
    with pytest.raises(Refused, match=told):
        number(value)


@pytest.mark.parametrize(
    ("returned", "told"),
    [
        ([1.0] * 3, "returned 3 values for 2 replies: return one for each"),
        (1.0, "returned a float: return a list with a number for a reply"),
        ("12", "returned a str: return a list with a number for a reply"),
        ({1.0: 1, 2.0: 2}, "returned a dict: return a list with a number for a reply"),
    ],
)
def test_a_function_of_all_rows_returns_a_value_for_each(returned: object, told: str) -> None:
    with pytest.raises(Refused, match=told):
        numbers_of(returned, 2)


@pytest.mark.parametrize(
    ("body", "told"),
    [
        ("[1.0]", "all 2 rows at once: returned 1 values for 2 replies: return one for each"),
        ("[1.0, None]", "row 2 of 2, .*: returned a NoneType"),
        ("1 / 0", "all 2 rows at once: raised ZeroDivisionError"),
    ],
)
def test_what_is_wrong_with_it_is_told_with_the_row_where_one_is_at_fault(
    open_functions: Open, body: str, told: str
) -> None:
    source = f"def brief(prompts, replies):\n    return {body}\n"
    with pytest.raises(DataError, match=rf"rewards\.py: brief, {told}"):
        values(open_functions(source))


@pytest.mark.parametrize(
    "source",
    [
        "def brief(p, r):\n    while r != 'one': pass\n    return 1",
        "import asyncio\nasync def brief(p, r):\n    if r != 'one': await asyncio.Event().wait()\n"
        "    return 1",
    ],
)
def test_a_function_that_never_returns_is_told_with_its_row_and_ended(
    open_functions: Open, source: str
) -> None:
    before = set(psutil.Process().children(recursive=True))
    functions = open_functions(source)
    functions.silence_seconds = 1.0
    with pytest.raises(DataError, match=ROW_2 + r"said nothing for 1 seconds .rewards.silence_s"):
        values(functions)
    assert set(psutil.Process().children(recursive=True)) <= before


def test_a_file_that_never_imports_is_told(open_functions: Open) -> None:
    with pytest.raises(SettingsError, match=r"rewards\.py: said nothing for 1 seconds"):
        open_functions("while True: pass", seconds=1)
