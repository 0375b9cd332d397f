"""Our side of benchmarks/ppo.py: it holds on to names within the engine."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.against_trl.case import TINY, Case
from benchmarks.against_trl.environment import HERE, unpack
from benchmarks.against_trl.floor import PARTS, REST, STEP
from benchmarks.against_trl.learning import Figures, kept
from benchmarks.ppo import PHASES, Side, show_floor


@pytest.mark.slow
@pytest.mark.parametrize(("half_early", "shared"), [(False, False), (True, False), (False, True)])
def test_our_side_writes_as_many_tokens_as_its_case_names(
    half_early: bool, shared: bool, tmp_path: Path
) -> None:
    case = replace(TINY, half_early=half_early, shared_trunk=shared)
    side = Side.start("ours", case, HERE, tmp_path)
    side.hear()
    side.turn()
    side.end()
    assert [told["tokens"] for told in side.told] == [case.tokens] * 2
    assert all(side.median(phase) > 0 and side.flops(phase) > 0 for phase in PHASES)


@pytest.mark.slow
def test_the_kernels_of_every_part_are_found_and_take_less_than_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    show_floor(TINY, tmp_path)
    head, kinds, *lines = capsys.readouterr().out.splitlines()
    assert head == "tiny, bfloat16, CPU seconds"
    assert kinds.split() == ["seconds", "products", "other", "kernels", "the", "rest"]
    found = {
        line[:18].strip(): [float(each.strip("s")) for each in line[18:].split()] for line in lines
    }
    assert list(found) == [*PARTS, "all"]
    # A step multiplies nothing; all else does.
    assert all((found[part][1] > 0) == (part not in (STEP, REST)) for part in PARTS)
    assert 0 < found["all"][1] + found["all"][2] < found["all"][0]


def test_a_case_goes_through_a_command_line() -> None:
    case = replace(TINY, half_early=True)
    assert Case.from_json(case.as_json()) == case
    assert Case.from_json(replace(case, critic=None).as_json()).critic is None
    # Four rows of 16 tokens, and four that end with their fourth.
    assert case.tokens == 4 * 16 + 4 * 4


def test_a_folder_without_trl_s_wheel_is_told(tmp_path: Path) -> None:
    (tmp_path / "trl-1.13.0-py3-none-any.whl").touch()
    with pytest.raises(SystemExit, match=r"no trl-1\.12\.0 here; fetch it .* pip download"):
        unpack(tmp_path, tmp_path / "unpacked")


def test_what_learning_made_of_a_seed_is_not_made_again(tmp_path: Path) -> None:
    made: list[str] = []

    def make() -> dict[str, Figures]:
        made.append("ours")
        return {"ours": {"reward": 1.5, "rubric": 0.8}}

    first, again = (kept(tmp_path / "ours.json", make) for _ in range(2))
    assert first == again == {"ours": {"reward": 1.5, "rubric": 0.8}}
    assert made == ["ours"]
