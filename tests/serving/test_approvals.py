from __future__ import annotations

import json
from pathlib import Path

from chatllama_pipeline.store.approvals import approve, is_approved


def test_an_approval_holds_for_its_assistant_and_its_evaluation_alone(tmp_path: Path) -> None:
    assert not is_approved(tmp_path, "mia", "0123abcd")
    path = approve(tmp_path, "mia", "0123abcd", by="ann")
    assert path == tmp_path / "_approvals" / "mia" / "0123abcd.json"
    assert is_approved(tmp_path, "mia", "0123abcd")
    assert not is_approved(tmp_path, "mia", "ffff0000")
    assert not is_approved(tmp_path, "ben", "0123abcd")


def test_an_approval_tells_who_and_leaves_nothing_beside_it(tmp_path: Path) -> None:
    path = approve(tmp_path, "mia", "0123abcd", by="ann")
    approve(tmp_path, "mia", "0123abcd", by="ben")
    record = json.loads(path.read_text())
    assert record["by"] == "ben"
    assert sorted(record) == ["at", "by"]
    assert [found.name for found in path.parent.iterdir()] == ["0123abcd.json"]
