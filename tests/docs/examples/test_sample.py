"""The quickstart's page shows what a run of it prints."""

from __future__ import annotations

import re
from pathlib import Path

from chatllama_pipeline.lineage.assets import ASSETS
from chatllama_pipeline.lineage.status import run_lines
from chatllama_pipeline.settings.folder import load_assistant
from chatllama_pipeline.store.versions import Store
from tests.docs.pages import REPOSITORY, blocks

[SAMPLE] = (b.text for b in blocks("docs/quickstart.md") if b.text.startswith("asset "))
LINES = SAMPLE.splitlines()


def test_the_sample_has_a_line_for_each_asset_in_the_order_of_a_run() -> None:
    shown = [line.split()[0] for line in LINES[1 : LINES.index("")]]
    # Nobody has rated anything yet.
    assert shown == [name for name, asset in ASSETS.items() if not asset.only_with]


def test_the_sample_begins_as_a_run_does(tmp_path: Path) -> None:
    assistant = load_assistant("quickstart", root=REPOSITORY / "assistants")
    told = list(run_lines(assistant, Store(tmp_path), since=0, now=1))
    assert told[0] == LINES[0]
    # Nothing is made in an empty store; the sources that it doesn't use are told alike.
    assert told[1:3] == LINES[1:3]


def test_the_samples_count_is_that_of_its_lines() -> None:
    made = [line for line in LINES if re.search(r"  made +[\d.]+$", line)]
    assert f"{len(made)} made in " in SAMPLE
