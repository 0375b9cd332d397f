"""`chatllama versions` and `chatllama diff`: what people see of versions."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from chatllama_pipeline.cli.main import cli
from chatllama_pipeline.errors import AbsentError, SettingsError
from chatllama_pipeline.store.manifests import Version
from chatllama_pipeline.store.versions import Store
from tests.lineage.conftest import Make, gate, write_config


def told(*arguments: str) -> list[str]:
    done = CliRunner().invoke(cli, list(arguments), catch_exceptions=False)
    return done.output.splitlines()


def line_of(version: Version, lines: list[str]) -> str:
    [line] = [line for line in lines if line.startswith(version.id)]
    return line


def test_versions_say_which_is_in_use_and_since_when_and_which_is_released(
    two_releases: tuple[Version, Version], make: Make
) -> None:
    older, newer = two_releases
    candidate = make("actor_ppo", "three")
    lines = told("versions", "mine")
    assert line_of(newer, lines).endswith("(made), released")
    assert "in use since" in line_of(newer, lines)
    assert line_of(older, lines).rstrip() == line_of(older, lines)
    assert "in use" not in line_of(older, lines)
    assert "released" not in line_of(candidate, lines)
    # The chain behind the release is released too.
    behind = newer.manifest.upstream["actor_ppo"]
    assert any(line.startswith(behind) and line.endswith("released") for line in lines)


def test_a_version_that_was_gone_back_to_says_so(make: Make) -> None:
    first = make("actor_sft", "one")
    make("actor_sft", "two")
    make("actor_sft", "one")
    assert "(reused)" in line_of(first, told("versions", "mine", "actor_sft"))


def test_versions_say_what_changed_what_it_cost_and_what_the_gate_said(make: Make) -> None:
    make("evaluation", "one", settings={"seed": 0}, checks=[gate(True)])
    second = make(
        "evaluation",
        "two",
        settings={"seed": 1},
        metrics={"llm_usd": 0.25},
        checks=[gate(False)],
    )
    lines = told("versions", "mine", "evaluation")
    line = line_of(second, lines)
    assert "0.2500" in line
    after = lines[lines.index(line) + 1 :]
    assert after[0].strip().startswith("seed 0 -> 1; ")
    assert after[1].strip() == "HELD BACK: it lost"


def test_a_pin_is_told_as_what_is_in_use(make: Make, store: Store) -> None:
    first = make("actor_sft", "one")
    make("actor_sft", "two")
    write_config(
        store.root.parent, f"data: {{sources: []}}\nstore: {{pins: {{actor_sft: {first.id}}}}}"
    )
    line = line_of(first, told("versions", "mine", "actor_sft"))
    assert line.endswith("in use, pinned (store.pins)")


def test_what_was_never_made_has_no_versions(store: Store) -> None:
    assert told("versions", "mine", "actor_sft")[1] == "actor_sft  never made"


def test_diff_compares_the_version_in_use_with_the_one_before(make: Make) -> None:
    first = make("actor_sft", "one", settings={"seed": 0, "actor_config.lr": 0.1}, rows=5)
    second = make("actor_sft", "two", settings={"seed": 0, "actor_config.lr": 0.2}, rows=6)
    lines = told("diff", "mine", "actor_sft")
    assert lines[0] == f"actor_sft: {first.id} -> {second.id}"
    assert [line.split() for line in lines[1:]] == [
        ["settings"],
        ["actor_config.lr", "0.1", "0.2"],
        ["inputs"],
        ["text", '"one"', '"two"'],
        ["data"],
        ["rows", "5", "6"],
    ]
    assert told("diff", "mine", "actor_sft", second.id[:6], first.id[:6])[0] == (
        f"actor_sft: {second.id} -> {first.id}"
    )


@pytest.mark.parametrize(
    ("arguments", "fault"),
    [
        (("diff", "mine", "actor_sft"), "is the first that stands: there is none before it"),
        (("diff", "mine", "actor_sft", "ffff"), "has no version ffff; those there are: "),
        (("diff", "mine", "actor_ppo"), "actor_ppo was never made for mine"),
        (("versions", "mine", "actor_pppo"), "did you mean actor_ppo?"),
        (("diff", "mine", "sft"), "there is no asset sft"),
    ],
)
def test_what_there_is_not_is_told_with_what_there_is(
    make: Make, arguments: tuple[str, ...], fault: str
) -> None:
    make("actor_sft", "one")
    with pytest.raises((AbsentError, SettingsError)) as error:
        told(*arguments)
    assert fault in str(error.value)


def test_a_history_that_a_kill_cut_off_is_read_and_written_on(
    make: Make, store: Store, tmp_path: Path
) -> None:
    make("actor_sft", "one")
    history = tmp_path / "storage" / "actor_sft" / "mine" / "history.jsonl"
    with history.open("a") as handle:
        handle.write('{"version": "cut o')
    second = make("actor_sft", "two")
    assert [use.how for use in store.uses("actor_sft", "mine")] == ["made", "made"]
    assert store.uses("actor_sft", "mine")[-1].version == second.id
    # Reusing what is current is no change.
    make("actor_sft", "two")
    assert len(store.uses("actor_sft", "mine")) == 2
