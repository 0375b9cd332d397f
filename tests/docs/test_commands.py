"""Every command line of the docs is one that its program takes."""

from __future__ import annotations

import re

import pytest

from chatllama_pipeline.cli.make import make
from tests.docs.commands import CHECKS, WrongCommandError, check_line, lines
from tests.docs.pages import ALL, PAGES, REPOSITORY, Block, blocks

SHELL = [block for page in PAGES for block in blocks(page) if block.language in ("bash", "sh")]
# In a sentence a command may stand without what it is given.
INLINE = sorted(
    {
        code
        for code in re.findall(r"`([^`\n]+)`", ALL)
        if code.split()[0].removeprefix(".venv/bin/") in CHECKS and " " in code
    }
)


@pytest.fixture(autouse=True)
def _in_the_repository(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the docs' reader stands."""
    monkeypatch.chdir(REPOSITORY)


@pytest.mark.parametrize("block", SHELL, ids=lambda block: block.place)
def test_a_block_of_commands_can_be_typed_as_it_stands(block: Block) -> None:
    for line in lines(block.text):
        check_line(line)


@pytest.mark.parametrize("code", INLINE)
def test_a_command_in_a_sentence_has_its_subcommand_and_options(code: str) -> None:
    check_line(code, whole=False)


def test_the_options_of_make_are_those_of_the_quickstarts_page() -> None:
    table = PAGES["docs/quickstart.md"].split("| option | what it does |")[1].split("\n\n")[0]
    told = re.findall(r"--[a-z]+(?:-[a-z]+)*", table)
    has = {name for option in make.params for name in option.opts if name.startswith("--")}
    assert set(told) == has


def test_both_kinds_are_found() -> None:
    assert len(SHELL) > 15
    assert len(INLINE) > 20


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("chatllama mak poet", "No such command 'mak'"),
        ("chatllama make poet --proces 2", "No such option"),
        ("chatllama make poet --processes 0", "0 is not in the range"),
        ("chatllama make", "Missing parameter: name"),
        ("chatllama make nobody", "no assistant is called nobody"),
        ("chatllama make quickstart --overrides '{\"sed\": 1}'", "unknown key"),
        ("chatllama cache prunes", "No such command 'prunes'"),
        ("python -m chatllama_pipeline chat", "Missing parameter: name"),
        ('eval "$(chatllama complete bash)"', "No such command 'complete'"),
        ("make fast", "the Makefile knows no fast"),
        ("make quickstart OVERIDES='{}'", "the Makefile knows no OVERIDES={}"),
        ("dagster asset make -m chatllama_pipeline.definitions", "No such command 'make'"),
        ("dagster dev -w workspace.yml", "'workspace.yml' does not exist"),
        ("dagster job execute -j spin", "no job is called spin"),
        ("dagster asset materialize --select spin", "['spin'] were selected"),
        (
            "dagster asset materialize --select '*' --config-json "
            """'{"resources": {"run_options": {"config": {"overrides": {"sed": 1}}}}}'""",
            "unknown key",
        ),
        (
            "dagster asset materialize --select shp --config-json "
            """'{"ops": {"shp": {"config": {"sorce": 1}}}}'""",
            "sorce",
        ),
        ("pip install -e '.[excell]'", "has no extra"),
        ("python benchmarks/train.py quick", "knows no quick"),
        ("pytest -m fast", "no such marker"),
        ("cp -r examples/none assistants/", "there is no examples/none"),
        ("chatllama make <name>", "syntax error"),
        ("curly make", "nobody checks curly"),
    ],
)
def test_a_command_that_cannot_run_is_told(line: str, reason: str) -> None:
    with pytest.raises(WrongCommandError, match=re.escape(reason)):
        check_line(line)
