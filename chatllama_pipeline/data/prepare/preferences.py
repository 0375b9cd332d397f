"""`preference_data`: the pairs that an assistant takes of its sources and of its own rows."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from itertools import pairwise
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from chatllama_pipeline.data.checks import (
    Faults,
    LengthWins,
    leak_check,
    not_empty_check,
    schema_check,
)
from chatllama_pipeline.data.feedback.rows import PAIRS_FILE
from chatllama_pipeline.data.funnel import FUNNEL_FILE
from chatllama_pipeline.data.patterns import redact_table
from chatllama_pipeline.data.prepare.lengths import (
    lengths_identity,
    limits_in_words,
    limits_of,
)
from chatllama_pipeline.data.prepare.rows import Preparation
from chatllama_pipeline.data.prepare.selection import quotas
from chatllama_pipeline.data.prepare.thumbs import Thumbs, require_both_kinds, write_thumbs
from chatllama_pipeline.data.prepare.tokens import TOO_LONG
from chatllama_pipeline.data.splits import Row, content_hash, is_flipped
from chatllama_pipeline.data.tables import read_batches, read_rows
from chatllama_pipeline.errors import DataError
from chatllama_pipeline.records import TABLE_FILE, Check, Outcome
from chatllama_pipeline.schemas import PAIR_SCHEMA, PREFERENCE_SCHEMA
from chatllama_pipeline.seeds import stage_seed
from chatllama_pipeline.settings import AssistantSettings
from chatllama_pipeline.settings.data import SourceChoice
from chatllama_pipeline.table_files import row_count

# In the table's schema: what its lengths were held by, so that nobody counts tokens again.
LENGTHS_KEY = b"lengths"
PERSONAL_TABLES = ("actor.parquet", "reward.parquet", "rlhf.parquet", "pairs.parquet")
_REPLIES = ("chosen", "rejected")


def personal_pairs(personal: Path) -> list[Row]:
    """The user's own pairs, and those that follow from own scores: replies to one prompt, each
    against the next better one."""
    by_prompt: dict[str, list[Row]] = {}
    for row in read_rows(personal, "reward.parquet"):
        if row["score"] is not None:
            by_prompt.setdefault(content_hash(row["prompt"]), []).append(row)
    pairs = read_rows(personal, "pairs.parquet")
    for rows in by_prompt.values():
        ordered = sorted(rows, key=lambda row: (row["score"], row["completion"]))
        pairs += [
            {
                "prompt": worse["prompt"],
                "chosen": better["completion"],
                "rejected": worse["completion"],
                "strength": max(1.0, better["score"] - worse["score"]),
                "source": "personal",
                "domain": "",
            }
            for worse, better in pairwise(ordered)
            if better["score"] > worse["score"]
        ]
    return pairs


def lengths_mark(settings: AssistantSettings) -> bytes:
    """What `LENGTHS_KEY` says in a table of these settings."""
    return json.dumps(lengths_identity(settings), sort_keys=True).encode()


def build_preference_data(
    sources: Mapping[str, Path],
    personal: Path,
    settings: AssistantSettings,
    output: Path,
    feedback: Path | None = None,
) -> Outcome:
    """Write all pairs of the assistant's sources, of the user's own rows, and of what people said
    of replies, if anything (`feedback`), with their splits; and the thumbs, where there are any.

    `sources` maps names to version folders. Raises DataError for a source without rows, or of
    which nothing is left, and where KTO would find thumbs of one kind.
    """
    pairs = _Pairs(sources, personal, settings, feedback)
    rows = Preparation(_REPLIES, settings, limits_of(settings), output, pairs.count())
    _scan(pairs, rows, settings)
    _choose(rows, settings)
    elsewhere = [read_batches(personal / name) for name in PERSONAL_TABLES]
    rows.drop_near_duplicates_of_held_out([*elsewhere, *held_out(feedback)])
    _require_rows(rows, settings)
    faults, lengths = Faults(), LengthWins()
    flipped = _Flips(settings)
    schema = PREFERENCE_SCHEMA.with_metadata({LENGTHS_KEY: lengths_mark(settings)})

    def look_at(group: pa.Table) -> None:
        faults.look_at(group)
        lengths.look_at(group)

    written = rows.emit(pairs.batches(), output / TABLE_FILE, schema, look_at, flipped.change)
    rows.funnel.write(output)
    elsewhere = [read_batches(personal / name) for name in PERSONAL_TABLES]
    given = [personal, *([feedback] if feedback else [])]
    held = [*elsewhere, *held_out(feedback)]
    thumbs = write_thumbs(given, held, settings, output, faults.look_at)
    if thumbs and settings.improve_by == "kto":
        require_both_kinds(thumbs.up, thumbs.down)
    checks = [
        schema_check(faults),
        _not_empty_check(written, thumbs, settings),
        _identical_check(rows, sources, settings),
        leak_check(rows.leaked() + (thumbs.leaked if thumbs else 0)),
        _length_check(lengths, settings),
    ]
    metrics = {
        "rows": rows.counts(),
        "dropped": rows.funnel.dropped(),
        "flipped_labels": flipped.count,
        "redacted": dict(pairs.redacted),
        "cut_prompts": rows.cut_prompts(),
        "tokenized_texts": rows.tokenized(),
        **({"thumbs": thumbs.metrics} if thumbs else {}),
    }
    return Outcome(rows=written, metrics=metrics, checks=checks)


def _not_empty_check(written: int, thumbs: Thumbs | None, settings: AssistantSettings) -> Check:
    cure = "name a source under data.sources in config.yaml"
    needed = bool(settings.data.sources) or settings.reward_config.objective == "pairwise"
    if settings.improve_by == "dpo":
        needed = True
        cure = f"improve_by: dpo learns from pairs alone; {cure}, or add pairs of your own"
    elif settings.improve_by == "kto" and thumbs is None:
        needed = True
        cure = (
            "improve_by: kto learns from thumbs, or from pairs where there are none; add rows of "
            f"prompt, completion and label (true or false), or {cure}"
        )
    return not_empty_check(written, cure, needed)


def held_out(version: Path | None) -> Iterator[Iterator[pa.Table]]:
    """The prompts of a version's table that nothing may be trained on; nothing of None."""
    if version is not None:
        tables = read_batches(version / TABLE_FILE, ["prompt", "source", "split"])
        yield (table.filter(pc.not_equal(table["split"], "train")) for table in tables)


class _Pairs:
    """The pairs of all sources in batches, read anew each time."""

    def __init__(
        self,
        sources: Mapping[str, Path],
        personal: Path,
        settings: AssistantSettings,
        feedback: Path | None,
    ) -> None:
        self.redacted: Counter[str] = Counter()
        self._counted = False
        self._kinds = settings.data.redact
        own = pa.Table.from_pylist(personal_pairs(personal), schema=PAIR_SCHEMA)
        self._own = [own] if own.num_rows else []
        self._paths = [_table_of(name, sources) for name in settings.data.sources]
        if feedback is not None:
            self._paths.append(feedback / PAIRS_FILE)

    def count(self) -> int:
        """How many pairs there are."""
        counts = map(row_count, self._paths)
        return sum([*(table.num_rows for table in self._own), *counts])

    def batches(self) -> Iterator[pa.Table]:
        for table in self._own:
            yield self._redact(table)
        for path in self._paths:
            for table in read_batches(path):
                yield self._redact(table)
        # The pairs are read twice, and counted once.
        self._counted = True

    def _redact(self, table: pa.Table) -> pa.Table:
        redacted, counts = redact_table(table, self._kinds)
        if not self._counted:
            self.redacted += counts
        return redacted


def _table_of(name: str, sources: Mapping[str, Path]) -> Path:
    path = sources[name] / TABLE_FILE if name in sources else None
    if path is None or not path.exists() or row_count(path) == 0:
        raise DataError(
            f"data.sources asks for {name}, which holds no rows; materialize {name} with this "
            "assistant, or take it out of data.sources in config.yaml"
        )
    return path


def _scan(pairs: _Pairs, rows: Preparation, settings: AssistantSettings) -> None:
    for table in rows.scanned(pairs.batches()):
        trimmed = [pc.utf8_trim_whitespace(table[side]) for side in _REPLIES]
        rows.drop_scanned(pc.equal(*trimmed).to_numpy(), "identical_replies")
        strength = table["strength"].to_numpy()
        rows.note("strength", strength)
        for name, choice in settings.data.sources.items():
            of_source = pc.equal(table["source"], name).to_numpy()
            if choice.domains:
                wanted = pc.is_in(table["domain"], pa.array(choice.domains)).to_numpy()
                rows.drop_scanned(of_source & ~wanted, "domain")
            if choice.min_ratio > 1:
                rows.drop_scanned(of_source & (strength < choice.min_ratio), "weak_preference")


def _choose(rows: Preparation, settings: AssistantSettings) -> None:
    """Duplicates go, then what the assistant's choices leave out."""
    rows.drop_duplicates(strongest=True)
    rows.drop_near_duplicates()
    seed = stage_seed(settings.seed, "preference_data")
    choices: dict[str, SourceChoice] = {str(n): c for n, c in settings.data.sources.items()}
    for name, choice in choices.items():
        if choice.max_pairs_per_prompt is not None:
            rows.drop_beyond(name, choice.max_pairs_per_prompt, seed)
    available = {name: int(rows.alive_of(name).sum()) for name in choices}
    for name, quota in quotas(available, choices, settings.data.number_of_samples).items():
        rows.sample(name, quota, seed)


def _require_rows(rows: Preparation, settings: AssistantSettings) -> None:
    for name in settings.data.sources:
        if not rows.alive_of(name).any():
            counted = rows.funnel.sources()[name]
            dropped = counted["dropped"]
            took = ", ".join(f"{reason} {n}" for reason, n in dropped.items())
            cure = "widen the choices there"
            if dropped and max(dropped, key=dropped.__getitem__) == TOO_LONG:
                cure = f"raise {limits_in_words(settings)}"
            raise DataError(
                f"data.sources.{name}: of its {counted['read']} pairs none is left ({took}); "
                f"{cure}, or take it out of data.sources in config.yaml"
            )


class _Flips:
    """Label noise on its way into the table."""

    def __init__(self, settings: AssistantSettings) -> None:
        self.count = 0
        self._noise = settings.data.label_noise
        self._seed = settings.seed

    def change(self, table: pa.Table) -> pa.Table:
        if not self._noise:
            return table
        flips = [is_flipped(row, self._noise, self._seed) for row in table.to_pylist()]
        self.count += sum(flips)
        mask = pa.array(flips, pa.bool_())
        both = [table[side].combine_chunks() for side in _REPLIES]
        for side, (kept, other) in zip(_REPLIES, (both, both[::-1]), strict=True):
            place = table.schema.get_field_index(side)
            field = table.schema.field(place)
            table = table.set_column(place, field, pc.if_else(mask, other, kept))
        return table


def _identical_check(
    rows: Preparation, sources: Mapping[str, Path], settings: AssistantSettings
) -> Check:
    """Of all pairs read, those that the sources dropped already among them."""
    counted = rows.funnel.sources()
    read = sum(source["read"] for source in counted.values())
    identical = rows.funnel.dropped().get("identical_replies", 0)
    for name in settings.data.sources:
        funnel = sources[name] / FUNNEL_FILE
        if funnel.is_file():
            for source in json.loads(funnel.read_text())["sources"].values():
                earlier = source["dropped"].get("identical_replies", 0)
                read, identical = read + earlier, identical + earlier
    share, limit = identical / read if read else 0.0, settings.checks.max_identical_pairs
    told = f"{identical} of {read} pairs had the same text as both replies and were dropped"
    return Check("identical_pairs", share <= limit, True, share, limit, told)


def _length_check(lengths: LengthWins, settings: AssistantSettings) -> Check:
    by_length, limit = lengths.accuracy, settings.checks.max_length_only_accuracy
    told = f"the longer reply is the preferred one in {by_length:.0%} of the pairs"
    return Check("length_only_accuracy", by_length <= limit, False, by_length, limit, told)
