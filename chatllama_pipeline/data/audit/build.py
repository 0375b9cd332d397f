"""`data_audit`: what an assistant's data are made of, as checks and as one HTML page.

It changes nothing and stops nothing.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from chatllama_pipeline.data.audit import AUDIT_PAGE
from chatllama_pipeline.data.audit.figures import Audit, TableFigures, measure
from chatllama_pipeline.data.audit.page import KIND_NAMES, render
from chatllama_pipeline.data.audit.pairs import PairFigures
from chatllama_pipeline.data.audit.tables import Overlap
from chatllama_pipeline.data.feedback.figures import FeedbackFigures
from chatllama_pipeline.data.feedback.rows import SOURCE
from chatllama_pipeline.records import Check, Outcome
from chatllama_pipeline.settings import AssistantSettings, CheckSettings

AUDIT_FILE = "audit.json"


def audit_checks(audit: Audit, limits: CheckSettings, unread: Sequence[str] = ()) -> list[Check]:
    """What a person should look at; none of these stops anything. `unread` tells of files that look
    like rows and are read by nobody."""
    return [
        _overlap_check(audit.overlaps),
        _repeats_check(audit.tables, limits.max_near_duplicates),
        _alike_check(audit.pairs, limits.max_alike_pairs),
        _length_check(audit.pairs, limits.max_length_only_accuracy),
        _personal_check(audit.matches, limits.max_personal_data),
        _unread_check(unread),
    ]


def _overlap_check(found: Sequence[Overlap]) -> Check:
    rows = sum(overlap.exact + overlap.near for overlap in found)
    told = (
        f"{rows:,} training rows repeat a prompt that is held out for validation or test"
        if rows
        else "no training row repeats a prompt that is held out for validation or test"
    )
    return Check("split_overlap", rows == 0, False, rows, 0, told)


def _repeats_check(tables: Sequence[TableFigures], limit: float) -> Check:
    rows = sum(table.repeated_rows for table in tables)
    near, prompts = sum(t.near_prompts for t in tables), sum(t.prompts for t in tables)
    share = near / prompts if prompts else 0.0
    told = (
        f"{rows:,} rows repeat another one exactly; {near:,} of {prompts:,} prompts ({share:.1%}) "
        "are nearly the same as another one"
    )
    return Check("near_duplicates", rows == 0 and share <= limit, False, share, limit, told)


def _alike_check(pairs: PairFigures, limit: float) -> Check:
    alike = pairs.identical + pairs.alike + pairs.alike_when_cut
    share = alike / pairs.pairs if pairs.pairs else 0.0
    told = (
        f"in {alike:,} of {pairs.pairs:,} pairs ({share:.1%}) the replies are the same text, but "
        f"for case and white space, or beyond {pairs.cut:,} characters"
    )
    return Check("alike_pairs", share <= limit, False, share, limit, told)


def _length_check(pairs: PairFigures, limit: float) -> Check:
    if pairs.length_only is None:
        told = "not measured: it takes training pairs and held-out pairs"
        return Check("length_only_held_out", True, False, 0.0, limit, told)
    told = (
        f"length alone names the preferred reply in {pairs.length_only:.1%} of {pairs.held_out:,} "
        "held-out pairs"
    )
    return Check(
        "length_only_held_out", pairs.length_only <= limit, False, pairs.length_only, limit, told
    )


def _personal_check(matches: Mapping[str, int], limit: int) -> Check:
    count = sum(matches.values())
    kinds = ", ".join(f"{KIND_NAMES[kind]}: {number:,}" for kind, number in sorted(matches.items()))
    told = (
        f"{kinds}; set data.redact: true to replace them by placeholders"
        if count
        else "no personal data found in the texts"
    )
    return Check("personal_data", count <= limit, False, count, limit, told)


def _unread_check(unread: Sequence[str]) -> Check:
    told = "every file of the assistant's folder that looks like rows is read"
    if unread:
        told = f"of the files that look like rows {'; '.join(unread)}"
    return Check("unread_files", not unread, False, len(unread), 0, told)


def build_data_audit(
    assistant: str,
    folders: Mapping[str, Path],
    settings: AssistantSettings,
    output: Path,
    unread: Sequence[str] = (),
) -> Outcome:
    """Write `audit.json` and `report.html`. `folders` maps the sources in use, the four datasets
    and `feedback`, where there is any, to their version folders; `unread` tells of own files that
    nobody reads."""
    audit = measure(folders, settings, output)
    said = FeedbackFigures.read(folders[SOURCE]) if SOURCE in folders else None
    checks = audit_checks(audit, settings.checks, unread)
    figures = {
        **dataclasses.asdict(audit),
        "checks": [dataclasses.asdict(check) for check in checks],
        **({SOURCE: dataclasses.asdict(said)} if said else {}),
    }
    text = json.dumps(figures, ensure_ascii=False, indent=1, sort_keys=True)
    (output / AUDIT_FILE).write_text(text + "\n", encoding="utf-8")
    page = render(assistant, settings, audit, checks, said)
    (output / AUDIT_PAGE).write_text(page, encoding="utf-8")
    metrics = {
        "length_only_held_out": audit.pairs.length_only,
        "longer_wins": audit.pairs.longer_wins,
        "personal_data": audit.matches,
    }
    return Outcome(metrics=metrics, checks=checks)
