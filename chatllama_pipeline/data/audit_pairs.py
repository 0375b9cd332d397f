"""What length alone says of which reply is preferred, and which pairs teach nothing."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from chatllama_pipeline.records import TABLE_FILE

# Quarter octaves of characters + 1: the last bin begins at 2^24.
BINS_PER_OCTAVE = 4
_BINS = 24 * BINS_PER_OCTAVE + 1
_ROWS_PER_BATCH = 4096
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
    identical = alike = alike_when_cut = longer = ties = 0
    columns = ["chosen", "rejected", "split"]
    with pq.ParquetFile(version / TABLE_FILE) as table:
        for batch in table.iter_batches(_ROWS_PER_BATCH, columns=columns):
            chosen, rejected = batch.column("chosen"), batch.column("rejected")
            first, second = _lengths(chosen), _lengths(rejected)
            longer += int((first > second).sum())
            ties += int((first == second).sum())
            train = pc.equal(batch.column("split"), "train").to_numpy(zero_copy_only=False)
            training.add(first[train], second[train])
            held_out.add(first[~train], second[~train])
            same = pc.equal(_trimmed(chosen), _trimmed(rejected))
            identical += pc.sum(same).as_py() or 0
            alike += _count_alike(chosen, rejected)
            begins = pc.equal(_begin(_trimmed(chosen), cut), _begin(_trimmed(rejected), cut))
            alike_when_cut += pc.sum(begins).as_py() or 0
    pairs = training.pairs + held_out.pairs
    return PairFigures(
        pairs=pairs,
        identical=identical,
        alike=alike - identical,
        alike_when_cut=alike_when_cut - identical,
        cut=cut,
        longer_wins=(longer + 0.5 * ties) / pairs if pairs else None,
        held_out=held_out.pairs,
        length_only=length_only_accuracy(training, held_out),
    )


def _lengths(texts: pa.Array) -> Numbers:
    lengths: Numbers = pc.utf8_length(texts).to_numpy(zero_copy_only=False).astype(np.int64)
    return lengths


def _trimmed(texts: pa.Array) -> pa.Array:
    return pc.utf8_trim_whitespace(texts)


def _count_alike(chosen: pa.Array, rejected: pa.Array) -> int:
    """Pairs whose replies differ in case and white space at most, the identical ones among them."""
    chosen, rejected = _trimmed(chosen), _trimmed(rejected)
    # Evening out is slow: first those are left out that begin with another letter.
    maybe = pc.equal(pc.utf8_lower(_begin(chosen, 1)), pc.utf8_lower(_begin(rejected, 1)))
    evened = [_evened(texts.filter(maybe)) for texts in (chosen, rejected)]
    return pc.sum(pc.equal(*evened)).as_py() or 0


def _evened(texts: pa.Array) -> pa.Array:
    return pc.replace_substring_regex(pc.utf8_lower(texts), r"\s+", " ")


def _begin(texts: pa.Array, cut: int) -> pa.Array:
    return pc.utf8_slice_codeunits(texts, 0, cut)
