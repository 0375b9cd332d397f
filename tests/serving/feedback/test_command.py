from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from chatllama_pipeline.cli.serving.feedback import feedback
from chatllama_pipeline.errors import DataError, UnknownAssistantError

THUMB = {
    "kind": "thumb",
    "prompt": [{"role": "user", "content": "alpha"}],
    "reply": {"text": "\u001b[2Jbravo"},
    "good": True,
    "visit": "visit-0000000000001",
}
EDIT = {**THUMB, "kind": "edit", "edited": "charlie"}
del EDIT["good"]


@pytest.fixture
def rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file of two ratings of assistant `tea`."""
    (tmp_path / "assistants" / "tea").mkdir(parents=True)
    (tmp_path / "assistants" / "tea" / "config.yaml").write_text("seed: 0\n")
    monkeypatch.setenv("CHATLLAMA_ASSISTANTS", str(tmp_path / "assistants"))
    monkeypatch.setenv("CHATLLAMA_STORE", str(tmp_path / "store"))
    file = tmp_path / "rows.jsonl"
    file.write_text("\n".join(json.dumps(row) for row in (THUMB, EDIT)))
    return file


def run(*arguments: str) -> Result:
    return CliRunner().invoke(feedback, list(arguments))


def test_ratings_are_imported_once_listed_written_out_and_deleted(
    rows: Path, tmp_path: Path
) -> None:
    assert run("list", "tea").stdout == ""
    assert "2 ratings imported, 0 were there already" in run("import", "tea", str(rows)).stderr
    assert "0 ratings imported, 2 were there already" in run("import", "tea", str(rows)).stderr
    lines = run("list", "tea").stdout.splitlines()
    assert [line.split()[2] for line in lines] == ["up", "edit"]
    assert lines[0].endswith(r"'\x1b[2Jbravo'")  # it doesn't clear the screen
    out = tmp_path / "out.jsonl"
    out.write_text(run("list", "tea", "--json").stdout)
    first = lines[0].split()[0]
    assert "1 ratings deleted" in run("delete", "tea", first).stderr
    assert "1 ratings deleted" in run("delete", "tea", "--visit", THUMB["visit"]).stderr  # type: ignore[arg-type]
    assert run("list", "tea").stdout == ""
    assert "2 ratings imported" in run("import", "tea", str(out)).stderr
    assert run("list", "tea").stdout.splitlines() == lines


def test_broken_rows_and_unknown_assistants_are_refused(rows: Path) -> None:
    rows.write_text(rows.read_text() + "\n{}")
    assert isinstance(run("import", "tea", str(rows)).exception, DataError)
    assert run("list", "tea").stdout == ""
    assert isinstance(run("list", "coffee").exception, UnknownAssistantError)
    assert "name ids, or a --visit" in run("delete", "tea").output
