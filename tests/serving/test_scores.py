"""The command `score`: a file of replies in, the same rows with rewards out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner, Result
from transformers import AutoTokenizer

from chatllama_pipeline.cli.main import cli
from chatllama_pipeline.errors import ChatllamaError
from chatllama_pipeline.models.heads import RewardScorer, load_reward
from chatllama_pipeline.records import Outcome, user_prompt
from chatllama_pipeline.store.manifests import Recipe
from chatllama_pipeline.store.versions import Store, Workbench

ROWS = [
    {"user_input": "alpha", "completion": "bravo", "score": 4.5},
    {"user_input": "charlie", "completion": "delta \N{SNOWMAN}", "note": "kept"},
]


@pytest.fixture
def place(tiny_base_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An assistant `mia` whose reward model was made; a file to score in a folder of its own."""
    (tmp_path / "assistants" / "mia").mkdir(parents=True)
    (tmp_path / "assistants" / "mia" / "config.yaml").write_text("seed: 0\n")
    monkeypatch.setenv("CHATLLAMA_ASSISTANTS", str(tmp_path / "assistants"))
    monkeypatch.setenv("CHATLLAMA_STORE", str(tmp_path / "store"))

    def build(bench: Workbench) -> Outcome:
        torch.manual_seed(0)
        load_reward(tiny_base_folder, torch.float32).save_pretrained(bench.output)
        AutoTokenizer.from_pretrained(tiny_base_folder).save_pretrained(bench.output)
        return Outcome()

    Store(tmp_path / "store").make(Recipe("reward_model", "mia", "1", {}, {}, {}), build, {}, False)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "replies.json").write_text(json.dumps(ROWS))
    return tmp_path


def run(place: Path, *arguments: str, file: str = "replies.json") -> Result:
    return CliRunner().invoke(cli, ["score", "mia", str(place / "mine" / file), *arguments])


def test_every_row_comes_out_with_its_reward_and_the_file_stays(place: Path) -> None:
    before = (place / "mine" / "replies.json").read_bytes()
    result = run(place)
    assert result.exit_code == 0, result.output
    written: list[dict[str, Any]] = json.loads((place / "mine" / "replies.scored.json").read_text())
    assert [{k: v for k, v in row.items() if k != "reward"} for row in written] == ROWS
    folder = Store(place / "store").read("reward_model", "mia").path
    expected = RewardScorer(folder)(
        [user_prompt("alpha"), user_prompt("charlie")], ["bravo", "delta \N{SNOWMAN}"]
    )
    assert [row["reward"] for row in written] == pytest.approx(expected.tolist(), abs=1e-6)
    assert (place / "mine" / "replies.json").read_bytes() == before
    assert "2 replies scored by reward_model" in result.stderr
    assert "warning" not in result.stderr


def test_scores_go_to_the_terminal_or_where_one_says(place: Path) -> None:
    printed = run(place, "--output", "-")
    assert [row["completion"] for row in json.loads(printed.stdout)] == [
        row["completion"] for row in ROWS
    ]
    run(place, "--output", str(place / "elsewhere.json"))
    assert json.loads((place / "elsewhere.json").read_text()) == json.loads(printed.stdout)
    assert not (place / "mine" / "replies.scored.json").exists()


def test_a_reply_longer_than_the_model_reads_is_scored_with_a_warning(place: Path) -> None:
    turns = "Human: alpha\n\nAssistant: bravo\n\n" * 40 + "Human: charlie"
    rows = [ROWS[0], {"user_input": "alpha", "completion": "bravo " * 400}]
    (place / "mine" / "long.json").write_text(
        json.dumps([*rows, {"user_input": turns, "completion": "delta"}])
    )
    result = run(place, file="long.json")
    assert result.exit_code == 0, result.output
    assert "warning: 2 of 3 are longer with their prompts than the 128 tokens" in result.stderr


def test_a_file_of_lines_is_read_too(place: Path) -> None:
    (place / "mine" / "lines.jsonl").write_text("\n".join(json.dumps(row) for row in ROWS))
    assert run(place, file="lines.jsonl").exit_code == 0
    assert len(json.loads((place / "mine" / "lines.scored.json").read_text())) == 2


def test_a_missing_field_is_named_with_its_row(place: Path) -> None:
    rows = [ROWS[0], {"user_input": "alpha"}, {"completion": "bravo"}, {"user_input": "delta"}]
    rows.append({"user_input": 7, "completion": "echo"})
    (place / "mine" / "holed.json").write_text(json.dumps(rows))
    result = run(place, file="holed.json")
    assert isinstance(result.exception, ChatllamaError)
    told = str(result.exception)
    assert "holed.json, rows 2, 4: the field completion is missing" in told
    assert "holed.json, row 3: the field user_input is missing" in told
    assert "holed.json, row 5, field user_input: 7 is a number and no text" in told
    assert not (place / "mine" / "holed.scored.json").exists()


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--output", "mine/replies.json"], "mine/replies.json exists already: name another"),
        (["--output", "no/where.json"], "the folder .*no does not exist"),
    ],
)
def test_nothing_is_overwritten(place: Path, arguments: list[str], told: str) -> None:
    arguments = [arguments[0], str(place / arguments[1])]
    before = (place / "mine" / "replies.json").read_bytes()
    with pytest.raises(ChatllamaError, match=told):
        CliRunner().invoke(
            cli, ["score", "mia", str(place / "mine/replies.json"), *arguments],
            catch_exceptions=False,
        )  # fmt: skip
    assert (place / "mine" / "replies.json").read_bytes() == before


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("empty.json", "[]", "holds no rows"),
        ("broken.json", "[{", "no JSON at line 1"),
        ("list.json", "{}", "holds no list"),
        ("missing.json", None, "there is no such file; check its path"),
    ],
)
def test_a_file_that_cannot_be_read_says_why(
    place: Path, name: str, content: str | None, told: str
) -> None:
    if content is not None:
        (place / "mine" / name).write_text(content)
    result = run(place, file=name)
    assert isinstance(result.exception, ChatllamaError) and told in str(result.exception)


def test_every_reward_says_its_word_where_it_is_asked_for(place: Path) -> None:
    mia = place / "assistants" / "mia"
    (mia / "config.yaml").write_text(
        "rewards: {weights: {reward_model: 1, brief: 0.5, judge: 0}, trust_code: true}\n"
        "llm: {judge: {provider: rubric}}\nevaluation: {judge: none}\n"
        "rubric: [{name: delta, says: delta}]\n"
    )
    (mia / "rewards.py").write_text("def brief(p, r):\n    print(p)\n    return -len(r)\n")
    result = run(place, "--rewards", "--output", "-")
    assert result.exit_code == 0, result.output
    rows = json.loads(result.stdout)
    told = [row["rewards"] for row in rows]
    assert [(one["brief"], one["judge"]) for one in told] == [(-5.0, 0.0), (-7.0, 5.0)]
    assert [one["reward_model"] for one in told] == [row["reward"] for row in rows]
    assert "rewards" not in json.loads(run(place, "--output", "-").stdout)[0]
