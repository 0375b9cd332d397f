"""All figures of an assistant's audit, measured on its tables after preparation."""

from __future__ import annotations

import contextlib
import json
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from chatllama_pipeline.data.audit.lengths import (
    USUAL_CHARACTERS_PER_TOKEN,
    Lengths,
    TokenFigures,
    lengths_of,
    measure_tokens,
    tokenizer_file,
    tokenizer_name,
)
from chatllama_pipeline.data.audit.pairs import PairFigures, measure_pairs
from chatllama_pipeline.data.audit.tables import (
    Overlap,
    PersonalData,
    TableScan,
    commonest_replies,
    overlaps,
    prompts_of,
    repeats,
    scan_table,
)
from chatllama_pipeline.data.funnel import FUNNEL_FILE
from chatllama_pipeline.data.near_duplicates import TextIndex
from chatllama_pipeline.data.patterns import redact
from chatllama_pipeline.data.prepare.tokens import load_tokenizer
from chatllama_pipeline.errors import DataError
from chatllama_pipeline.models.chat.plain_text import PlainText, unaltered
from chatllama_pipeline.records import TABLE_FILE
from chatllama_pipeline.settings import PERSONAL_KINDS, AssistantSettings
from chatllama_pipeline.settings.training.base_model import GGUF_SUFFIX
from chatllama_pipeline.table_files import row_count

AUDITED = (
    "preference_data",
    "actor_training_data",
    "rlhf_training_data",
    "reward_training_data",
)
_REPLIES_SHOWN = 3
_REPLY_CHARACTERS = 160


@dataclass(frozen=True)
class TableFigures:
    """One table: rows by split and source, lengths by part, and what recurs.

    `repeated_rows` say what an earlier row says; of the `prompts` (distinct first user turns),
    `near_prompts` are nearly the same as another one (see `near_duplicates`). `marked_rows` spell a
    control token of the actor's tokenizer, where that is at hand.
    """

    name: str
    rows: int
    by_split: dict[str, int]
    by_source: dict[str, int]
    characters: dict[str, Lengths]
    tokens: TokenFigures | None
    repeated_rows: int
    prompts: int
    near_prompts: int
    marked_rows: int | None
    replies: list[tuple[str, int]]


@dataclass(frozen=True)
class Audit:
    """All figures of the page. `funnels` maps an asset to its rows by source."""

    tables: list[TableFigures]
    funnels: dict[str, dict[str, dict[str, Any]]]
    pairs: PairFigures
    overlaps: list[Overlap]
    matches: dict[str, int]
    texts: dict[str, int]
    examples: dict[str, list[str]]
    tokenizer: str | None


def measure(
    folders: Mapping[str, Path], settings: AssistantSettings, folder: Path | None = None
) -> Audit:
    """Read the version folders of sources in use and of the four datasets, each table once. What
    doesn't fit into memory waits in `folder` (None: where temporary files go)."""
    folder = folder or Path(tempfile.gettempdir())
    expected = sum(row_count(folders[name] / TABLE_FILE) for name in AUDITED)
    personal, turns = PersonalData(), TextIndex(folder, expected)
    plain = _open_tokenizer(settings)
    scans = [scan_table(name, folders[name], personal, turns, plain, folder) for name in AUDITED]
    limits = {name: _token_limit(name, settings) for name in AUDITED}
    tables = [_table_figures(scan, turns, plain, limits[scan.name], folder) for scan in scans]
    tokens = tables[0].tokens
    per_token = tokens.characters_per_token if tokens else USUAL_CHARACTERS_PER_TOKEN
    cut = round(limits["preference_data"] * per_token)
    return Audit(
        tables=tables,
        funnels={name: _read_funnel(folder) for name, folder in folders.items()},
        pairs=measure_pairs(folders["preference_data"], cut),
        overlaps=overlaps(scans, turns),
        matches=dict(personal.matches),
        texts=dict(personal.texts),
        examples=personal.examples,
        tokenizer=tokenizer_name(settings) if plain else None,
    )


def _open_tokenizer(settings: AssistantSettings) -> PlainText | None:
    file = tokenizer_file(settings)
    if file is None:
        return None
    if file.suffix == GGUF_SUFFIX:
        # A file that can't be read is told of by the base.
        with contextlib.suppress(DataError):
            return PlainText(load_tokenizer(str(file)))
        return None
    from tokenizers import Tokenizer

    return PlainText(unaltered(Tokenizer.from_file(str(file))))


def _token_limit(table: str, settings: AssistantSettings) -> int:
    of_reward_model = table in ("preference_data", "reward_training_data")
    section = settings.reward_config if of_reward_model else settings.actor_config
    return section.max_sequence_length


def _read_funnel(version: Path) -> dict[str, dict[str, Any]]:
    file = version / FUNNEL_FILE
    sources: dict[str, dict[str, Any]] = (
        json.loads(file.read_text(encoding="utf-8"))["sources"] if file.is_file() else {}
    )
    return sources


def _table_figures(
    scan: TableScan, index: TextIndex, plain: PlainText | None, limit: int, folder: Path
) -> TableFigures:
    prompts, near_prompts = prompts_of(scan, index, folder)
    shown = commonest_replies(scan, _REPLIES_SHOWN) if scan.name == AUDITED[1] else []
    return TableFigures(
        name=scan.name,
        rows=scan.rows,
        by_split=scan.by_split(),
        by_source=dict(sorted(scan.sources.items())),
        characters={part: lengths_of(*each.counted()) for part, each in scan.characters.items()},
        tokens=measure_tokens(scan, plain, limit) if plain and scan.rows else None,
        repeated_rows=repeats(scan.row_keys),
        prompts=prompts,
        near_prompts=near_prompts,
        marked_rows=scan.marked,
        replies=[
            (redact(text[:_REPLY_CHARACTERS], PERSONAL_KINDS), count) for text, count in shown
        ],
    )
