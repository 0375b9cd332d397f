"""The sources that any assistant may draw on, and how their tables are made.

Rows stream from the files through the converter into the table, which is ordered by the rows'
hashes: the order of files and rows changes nothing, and memory doesn't grow with the dataset.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from chatllama_pipeline.data.checks import Faults, not_empty_check, schema_check
from chatllama_pipeline.data.funnel import Funnel
from chatllama_pipeline.data.grammar import rows as grammar
from chatllama_pipeline.data.ordered import OrderedTable
from chatllama_pipeline.data.sources import hh_rlhf, shp
from chatllama_pipeline.data.sources.pairs import Converting, Pairs, pairs_of
from chatllama_pipeline.data.sources.places import (
    Asked,
    Files,
    Home,
    fetch,
    identify,
    require_as_identified,
)
from chatllama_pipeline.data.sources.raw import count_of, read_file
from chatllama_pipeline.data.splits import Row
from chatllama_pipeline.data.workers.batches import worked
from chatllama_pipeline.records import TABLE_FILE, Outcome
from chatllama_pipeline.schemas import PAIR_SCHEMA

_SUBSETS_TOLD = 50
_MADE_HERE_ROWS = 2_000
# Fewer become pairs before processes have started.
LEAST_ROWS = 60_000


@dataclass(frozen=True)
class Public:
    """A source that is fetched: where it lives, and how a row of its files becomes a pair.

    `convert` gets a row and the subset that its file stands in, "" if none; it returns a pair
    (with a key `mended` where it had to be mended) or the defect of a row that is dropped.
    `subsets` are the folders that count as subsets, none meaning any.
    """

    home: Home
    convert: Callable[[dict[str, Any], str], Row | str]
    needed: tuple[str, ...]
    used: tuple[str, ...]
    subsets: tuple[str, ...] = ()


@dataclass(frozen=True)
class Source:
    """A source: fetched (`public`), or made here (`rows`)."""

    title: str
    public: Public | None = None
    rows: Callable[[], Iterable[Row]] | None = None


SOURCES: dict[str, Source] = {
    "shp": Source(
        "Stanford Human Preferences (Reddit)",
        Public(shp.HOME, shp.convert, shp.NEEDED, shp.USED),
    ),
    "hh_rlhf": Source(
        "Anthropic's hh-rlhf",
        Public(hh_rlhf.HOME, hh_rlhf.convert, hh_rlhf.NEEDED, hh_rlhf.NEEDED, hh_rlhf.SUBSETS),
    ),
    "grammar": Source(
        "questions and replies from templates of our own", rows=grammar.grammar_pairs
    ),
}


def source_location(name: str, asked: Asked | None = None) -> str:
    """Where a source's rows come from now: a hub id or a place of the user's; "" if made here."""
    public = SOURCES[name].public
    return public.home.location(asked or Asked()) if public else ""


def source_inputs(
    name: str, asked: Asked, known: Mapping[str, Any] | None, look: bool = True
) -> dict[str, Any]:
    """What a source's files are now (see `places.identify`); nothing for one made here."""
    public = SOURCES[name].public
    return identify(public.home, asked, known, look) if public else {}


def build_source(
    name: str,
    output: Path,
    asked: Asked | None = None,
    inputs: Mapping[str, Any] | None = None,
    scratch: Path | None = None,
) -> Outcome:
    """Write all pairs of a source to `output`, dropping and counting defects.

    `inputs` are what `source_inputs` told of the files; `scratch` outlives a kill and keeps
    downloads. Raises ChangedFileError where the files aren't what was told, or change meanwhile.
    """
    source, asked = SOURCES[name], asked or Asked()
    files: Files | None = None
    if source.public:
        inputs = inputs if inputs is not None else source_inputs(name, asked, None)
        files = fetch(source.public.home, asked, inputs, scratch or output)
        every = _converted(source.public, files)
    else:
        every = _made_here(source)
    table = _SourceTable(name)
    with OrderedTable(output / TABLE_FILE, PAIR_SCHEMA) as ordered:
        for pairs in every:
            table.take(pairs, ordered)
        if source.public and inputs:
            require_as_identified(source.public.home, asked, inputs)
    table.funnel.write(output)
    metrics: dict[str, Any] = {
        "dropped": table.funnel.dropped(),
        "mended": dict(sorted(table.mended.items())),
        "domains": dict(table.domains.most_common(_SUBSETS_TOLD)),
    }
    if files is not None:
        metrics |= {
            "location": files.location,
            "revision": files.revision or "none: no hub revision",
            "licence": files.licence,
            "files": len(files.paths),
            "bytes": files.size,
        }
    return Outcome(
        rows=ordered.rows,
        metrics=metrics,
        checks=[schema_check(table.faults), not_empty_check(ordered.rows, _cure(source, table))],
    )


class _SourceTable:
    """Counts of a source's rows, and its pairs on their way to the table."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.funnel = Funnel()
        self.domains: Counter[str] = Counter()
        self.mended: Counter[str] = Counter()
        self.faults = Faults()

    def take(self, pairs: Pairs, ordered: OrderedTable) -> None:
        self.funnel.read(self.name, pairs.read)
        for defect, count in pairs.defects.items():
            self.funnel.drop(self.name, defect, count)
        self.mended.update(pairs.mended)
        self.domains.update(pairs.domains)
        self.faults.look_at(pairs.table)
        ordered.add(pairs.table, pairs.keys)


def _converted(public: Public, files: Files) -> Iterator[Pairs]:
    given = (
        (batch, _subset(path, files.root, public.subsets))
        for path in files.paths
        for batch in read_file(path, public.needed, public.used)
    )
    trade = Converting(public.convert, public.needed)
    done = worked(given, "pairs", trade, lambda one: count_of(one[0]), least_rows=LEAST_ROWS)
    yield from (pairs for _, pairs in done)


def _subset(path: Path, root: Path, subsets: tuple[str, ...]) -> str:
    """The subset that a file's folder names: one of `subsets`, or the folder below the root."""
    if subsets:
        return next((part for part in reversed(path.parts[:-1]) if part in subsets), "")
    folders = path.relative_to(root).parts[:-1]
    return folders[0] if folders else ""


def _made_here(source: Source) -> Iterator[Pairs]:
    rows: list[Row | str] = list(source.rows()) if source.rows else []
    for start in range(0, len(rows), _MADE_HERE_ROWS):
        yield pairs_of(rows[start : start + _MADE_HERE_ROWS])


def _cure(source: Source, table: _SourceTable) -> str:
    if source.public is None:
        return "see the grammar"
    dropped = table.funnel.dropped()
    told = ", ".join(f"{reason} {count}" for reason, count in dropped.items())
    why = f"all were dropped ({told}); " if told else ""
    return f"{why}set {source.public.home.variable} to a place that holds rows"
