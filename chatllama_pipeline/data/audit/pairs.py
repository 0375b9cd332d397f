"""What length alone says of which reply is preferred, and which pairs teach nothing."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from itertools import repeat
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow.compute as pc

from chatllama_pipeline.records import TABLE_FILE
from chatllama_pipeline.table_files import record_batches

# Quarter octaves of characters + 1: the last bin begins at 2^24.
BINS_PER_OCTAVE = 4
_BINS = 24 * BINS_PER_OCTAVE + 1
_ROUNDS = 200
# Wins and losses of every length against an imaginary one, so that rare lengths stay near it.
_PRIOR = 1.0

Numbers = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class PairFigures:
    """`longer_wins` is the share of pairs whose longer reply is preferred, ties half, over all.

    `length_only` is the accuracy, on `held_out` pairs, of a classifier that was fitted on the
    training pairs' lengths; None where there is nothing to fit or to measure on. `alike` are pairs
    whose replies differ in case and white space at most, `alike_when_cut` those that agree in the
    first `cut` characters.
    """

    pairs: int
    identical: int
    alike: int
    alike_when_cut: int
    cut: int
    longer_wins: float | None
    held_out: int
    length_only: float | None

    @property
    def margin(self) -> float:
        """Half the width of the 95 % interval of `length_only`."""
        if not self.held_out or self.length_only is None:
            return 0.0
        return 1.96 * math.sqrt(self.length_only * (1 - self.length_only) / self.held_out)


@dataclass
class Contests:
    """How often a reply of one length was preferred to one of another.

    `wins[i, j]`: preferred replies with a length in bin i against bin j; on the diagonal lengths
    share a bin, and `longer`, `shorter` say which of the two was preferred.
    """

    wins: Numbers
    longer: Numbers
    shorter: Numbers

    @classmethod
    def empty(cls) -> Contests:
        return cls(
            np.zeros((_BINS, _BINS), np.int64), np.zeros(_BINS, np.int64), np.zeros(_BINS, np.int64)
        )

    def add(self, chosen: Numbers, rejected: Numbers) -> None:
        """Count pairs by the characters of their two replies."""
        winner, loser = _bins(chosen), _bins(rejected)
        np.add.at(self.wins, (winner, loser), 1)
        same = winner == loser
        np.add.at(self.longer, winner[same & (chosen > rejected)], 1)
        np.add.at(self.shorter, winner[same & (chosen < rejected)], 1)

    @property
    def pairs(self) -> int:
        return int(self.wins.sum())


def _bins(characters: Numbers) -> Numbers:
    found = (BINS_PER_OCTAVE * np.log2(characters + 1)).astype(np.int64)
    return np.minimum(found, _BINS - 1)


def length_strengths(training: Contests) -> Floats:
    """How strong each length is, by the Bradley-Terry model: bin i is preferred to j with
    probability p[i] / (p[i] + p[j]). Fitted by Hunter's MM algorithm (Annals of Statistics, 2004).
    """
    between = training.wins - np.diag(np.diag(training.wins))
    met = between + between.T
    won = between.sum(axis=1) + _PRIOR
    strengths = np.ones(_BINS)
    for _ in range(_ROUNDS):
        against = (met / (strengths[:, None] + strengths[None, :])).sum(axis=1)
        strengths = won / (against + 2 * _PRIOR / (strengths + 1))
    return strengths


def length_only_accuracy(training: Contests, held_out: Contests) -> float | None:
    """How often length alone names the preferred reply of held-out pairs, ties half.

    The reply of the stronger length is taken; within a bin the longer or the shorter one, as it
    was in the training pairs of that bin more often.
    """
    if not training.pairs or not held_out.pairs:
        return None
    strengths = length_strengths(training)
    sure = np.sign(np.round(strengths[:, None] - strengths[None, :], 9))
    between = held_out.wins - np.diag(np.diag(held_out.wins))
    right = float((between * (0.5 + 0.5 * sure)).sum())
    lean = np.sign(training.longer - training.shorter)
    equal = np.diag(held_out.wins) - held_out.longer - held_out.shorter
    right += float((held_out.longer * (0.5 + 0.5 * lean)).sum())
    right += float((held_out.shorter * (0.5 - 0.5 * lean)).sum() + 0.5 * equal.sum())
    return right / held_out.pairs


def measure_pairs(version: Path, cut: int) -> PairFigures:
    """Read the preference pairs once; `cut` is how many characters a model reads of a reply."""
    training, held_out = Contests.empty(), Contests.empty()
    alike: Counter[str] = Counter()
    longer = 0.0
    columns = ["chosen", "rejected", "split"]
    for batch in record_batches(version / TABLE_FILE, columns):
        chosen, rejected = (batch.column(name).to_pylist() for name in columns[:2])
        alike.update(map(_likeness, chosen, rejected, repeat(cut)))
        first, second = (np.array([*map(len, texts)], np.int64) for texts in (chosen, rejected))
        longer += float((0.5 + 0.5 * np.sign(first - second)).sum())
        train = pc.equal(batch.column("split"), "train").to_numpy(zero_copy_only=False)
        training.add(first[train], second[train])
        held_out.add(first[~train], second[~train])
    pairs = training.pairs + held_out.pairs
    return PairFigures(
        pairs=pairs,
        identical=alike["identical"],
        alike=alike["alike"],
        alike_when_cut=alike["alike when cut"],
        cut=cut,
        longer_wins=longer / pairs if pairs else None,
        held_out=held_out.pairs,
        length_only=length_only_accuracy(training, held_out),
    )


def _likeness(chosen: str, rejected: str, cut: int) -> str:
    chosen, rejected = chosen.strip(), rejected.strip()
    if chosen == rejected:
        return "identical"
    # Evening out is slow: replies that begin with another letter are not alike.
    if chosen[:1].lower() != rejected[:1].lower():
        return ""
    if chosen.lower().split() == rejected.lower().split():
        return "alike"
    return "alike when cut" if chosen[:cut] == rejected[:cut] else ""
