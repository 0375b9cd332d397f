"""The docs' table of families is made of what the tests are parametrized with."""

from __future__ import annotations

from pathlib import Path

from tests.families.kit import ACTORS, PRETRAINED_REWARDS, REWARDS

PAGE = (Path(__file__).parents[2] / "docs/making/models.md").read_text()


def table() -> list[str]:
    scoring = {family.name for family in REWARDS}
    lines = [
        "| family | stands for | SFT, PPO, evaluation, release, chat | reward model | critic |",
        "|---|---|---|---|---|",
    ]
    for family in ACTORS:
        reward = "passed" if family.name in scoring else "not listed"
        lines.append(f"| `{family.name}` | {family.stands_for} | passed | {reward} | passed |")
    for family in PRETRAINED_REWARDS:
        lines.append(
            f"| `{family.name}` | {family.stands_for} | an encoder cannot write | as it is and "
            "trained: passed | one score a row, none per token |"
        )
    return lines


def test_the_docs_table_of_families_is_that_of_the_tests() -> None:
    assert "\n".join(table()) in PAGE
