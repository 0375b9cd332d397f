"""What is told of a reward model: by source, with intervals, beside a rule that counts tokens."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from chatllama_pipeline.models.chat.template import Example
from chatllama_pipeline.models.heads import load_reward, score_rows
from chatllama_pipeline.training.reward.items import Items, Pair, Scored
from chatllama_pipeline.training.reward.report import RewardReport, reward_report

PROMPT = [3, 40, 4]


def reply(*ids: int) -> Example:
    return Example([*PROMPT, *ids, 1], len(PROMPT))


@pytest.fixture
def report(tiny_base_folder: Path) -> RewardReport:
    torch.manual_seed(0)
    model = load_reward(tiny_base_folder, torch.float32)
    candidates = [reply(50), reply(60, 61), reply(70, 71, 72)]
    low, middle, high = (candidates[i] for i in score_rows(model, candidates, 0).argsort().tolist())
    held_out = Items(
        # Of `good` the model gets all three right, of `bad` one of two.
        pairs=[
            Pair(high, low, 0.0, "good"),
            Pair(high, middle, 0.0, "good"),
            Pair(middle, low, 0.0, "good"),
            Pair(high, low, 0.0, "bad"),
            Pair(low, high, 0.0, "bad"),
        ],
        scored=[Scored(low, -1.0, "good"), Scored(high, 1.0, "good")],
        too_long=0,
    )
    return reward_report(model, held_out, 0, "validation")


def test_each_source_has_its_accuracy_with_an_interval(report: RewardReport) -> None:
    assert list(report.sources) == ["all", "bad", "good"]
    good, bad, every = (report.sources[name] for name in ("good", "bad", "all"))
    assert (good.pairs, good.accuracy) == (3, 1.0)
    assert good.accuracy_interval == pytest.approx((0.4385, 1.0), abs=1e-4)  # Wilson, 3 of 3
    assert (bad.pairs, bad.accuracy) == (2, 0.5)
    assert (every.pairs, every.accuracy) == (5, 0.8)
    assert good.score_correlation == 1.0 and bad.score_correlation is None


def test_a_rule_that_knows_only_the_length_stands_beside_it(tiny_base_folder: Path) -> None:
    torch.manual_seed(0)
    model = load_reward(tiny_base_folder, torch.float32)
    short, long = reply(50), reply(60, 61)
    pairs = [
        Pair(long, short, 0.0, "a"),
        Pair(long, short, 0.0, "a"),
        Pair(short, long, 0.0, "a"),
        Pair(short, short, 0.0, "a"),
    ]
    found = reward_report(model, Items(pairs, [], 0), 0, "validation").sources["a"]
    assert found.length_only == 0.625  # two longer ones preferred, one shorter, a draw
    higher = score_rows(model, [long, short], 0)
    sign = 1.0 if higher[0] > higher[1] else -1.0
    assert found.length_correlation == pytest.approx(sign, abs=1e-4)


def test_a_report_comes_back_from_its_file_as_it_was(report: RewardReport, tmp_path: Path) -> None:
    report.write(tmp_path)
    assert RewardReport.read(tmp_path) == report
    assert RewardReport.read(tmp_path / "nowhere") is None
    assert report.metrics()["by_source"]["good"]["accuracy"] == 1.0


def test_without_held_out_pairs_nothing_is_claimed(tiny_base_folder: Path) -> None:
    torch.manual_seed(0)
    model = load_reward(tiny_base_folder, torch.float32)
    report = reward_report(model, Items([], [], 0), 0, "validation")
    assert report == RewardReport("validation", {}, [], None)
    assert report.metrics() == {}
