"""How far a reward model can be trusted, per source, on pairs that it has not learned from."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

import torch

from chatllama_pipeline.models.heads import score_rows
from chatllama_pipeline.statistics import wilson_interval
from chatllama_pipeline.training.reward.equations import (
    CalibrationBin,
    calibration,
    calibration_error,
    rank_correlation,
    win_share,
)
from chatllama_pipeline.training.reward.items import Items

REPORT_FILE = "reward_report.json"
ALL = "all"


@dataclass(frozen=True)
class SourceReport:
    """Of one source's held-out pairs; `[low, high]` are 95 % Wilson intervals.

    `length_only` is the accuracy of a rule that knows nothing but which reply is longer;
    `length_correlation` the rank correlation of a reply's score with its length in tokens, and
    `score_correlation` with the score that a judge or person gave (None where nobody gave one).
    """

    pairs: int
    accuracy: float
    accuracy_interval: tuple[float, float]
    length_only: float
    length_only_interval: tuple[float, float]
    length_correlation: float | None
    score_correlation: float | None


@dataclass(frozen=True)
class RewardReport:
    """Sources by name, `all` first; the calibration curve of all pairs together, and its error.

    A bin's `predicted` is the mean probability that the model gives to its own choice, `observed`
    the share in which people chose alike.
    """

    split: str
    sources: dict[str, SourceReport]
    calibration: list[CalibrationBin]
    calibration_error: float | None

    def write(self, folder: Path) -> None:
        text = json.dumps(asdict(self), indent=1, sort_keys=True) + "\n"
        (folder / REPORT_FILE).write_text(text)

    @classmethod
    def read(cls, folder: Path) -> Self | None:
        """The report in a reward model's folder; None where it has none."""
        path = folder / REPORT_FILE
        if not path.is_file():
            return None
        raw = json.loads(path.read_text())
        sources = {}
        for name, source in raw["sources"].items():
            intervals = {
                key: (source[key][0], source[key][1])
                for key in ("accuracy_interval", "length_only_interval")
            }
            sources[name] = SourceReport(**(source | intervals))
        bins = [CalibrationBin(**each) for each in raw["calibration"]]
        return cls(raw["split"], sources, bins, raw["calibration_error"])

    def metrics(self) -> dict[str, Any]:
        """What Dagster shows beside the curves."""
        if ALL not in self.sources:
            return {}
        whole = self.sources[ALL]
        return {
            "validation_accuracy_interval": list(whole.accuracy_interval),
            "length_only_accuracy": whole.length_only,
            "length_correlation": whole.length_correlation,
            "calibration_error": self.calibration_error,
            "calibration": [asdict(each) for each in self.calibration],
            "by_source": {name: asdict(each) for name, each in self.sources.items()},
        }


@dataclass(frozen=True)
class _Read:
    """Held-out rows of one source with their raw scores `[N]` and lengths in tokens `[N]`."""

    chosen: torch.Tensor
    rejected: torch.Tensor
    chosen_tokens: torch.Tensor
    rejected_tokens: torch.Tensor
    scored: torch.Tensor
    given: torch.Tensor


def reward_report(model: Any, held_out: Items, pad_id: int, split: str) -> RewardReport:
    """Score the held-out rows with `model` and report on each source of theirs."""
    names = sorted({item.source for item in held_out.pairs})
    if not names:
        return RewardReport(split, {}, [], None)
    rows = held_out.rows
    found = score_rows(model, rows, pad_id, "reports on")
    tokens = torch.tensor([float(len(row.ids) - row.prompt_length) for row in rows])
    read = {name: _read(held_out, found, tokens, name) for name in [ALL, *names]}
    difference = read[ALL].chosen - read[ALL].rejected
    bins = calibration(difference)
    sources = {name: _source_report(each) for name, each in read.items()}
    return RewardReport(split, sources, bins, calibration_error(bins))


def _read(held_out: Items, found: torch.Tensor, tokens: torch.Tensor, name: str) -> _Read:
    """One source's part of the scores and lengths of all rows, which stand as in `rows_of`."""
    pairs = [number for number, item in enumerate(held_out.pairs) if name in (ALL, item.source)]
    scored = [number for number, item in enumerate(held_out.scored) if name in (ALL, item.source)]
    count = len(held_out.pairs)
    return _Read(
        found[:count][pairs],
        found[count : 2 * count][pairs],
        tokens[:count][pairs],
        tokens[count : 2 * count][pairs],
        found[2 * count :][scored],
        torch.tensor([held_out.scored[number].score for number in scored]),
    )


def _source_report(read: _Read) -> SourceReport:
    pairs = len(read.chosen)
    accuracy = win_share(read.chosen, read.rejected)
    length_only = win_share(read.chosen_tokens, read.rejected_tokens)
    scores = torch.cat([read.chosen, read.rejected])
    tokens = torch.cat([read.chosen_tokens, read.rejected_tokens])
    return SourceReport(
        pairs=pairs,
        accuracy=_rounded(accuracy),
        accuracy_interval=_interval(accuracy, pairs),
        length_only=_rounded(length_only),
        length_only_interval=_interval(length_only, pairs),
        length_correlation=_rounded_or_none(rank_correlation(scores, tokens)),
        score_correlation=_rounded_or_none(rank_correlation(read.scored, read.given)),
    )


def _interval(share: float, pairs: int) -> tuple[float, float]:
    low, high = wilson_interval(share, pairs)
    return _rounded(low), _rounded(high)


def _rounded(value: float) -> float:
    return round(value, 4)


def _rounded_or_none(value: float | None) -> float | None:
    return None if value is None else _rounded(value)
