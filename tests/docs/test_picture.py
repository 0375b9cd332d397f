"""The picture of the report that README shows is taken by a script."""

from __future__ import annotations

import os
import shutil
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from tests.docs.pages import PAGES, REPOSITORY
from tests.waiting import PATIENCE

SCRIPT = REPOSITORY / "docs" / "pictures" / "of_report.py"
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
MOST_BYTES = 200_000


def size(picture: Path) -> tuple[int, int]:
    """Width and height of a PNG, as its header says."""
    header = picture.read_bytes()[:24]
    assert header[:8] == b"\x89PNG\r\n\x1a\n"
    return struct.unpack(">II", header[16:24])


def test_the_readme_shows_a_small_picture_of_the_report() -> None:
    assert "](docs/pictures/report.png)" in PAGES["README.md"]
    picture = REPOSITORY / "docs" / "pictures" / "report.png"
    assert size(picture) == (1100, 1080)
    assert picture.stat().st_size < MOST_BYTES


@pytest.mark.parametrize("name", ["dagster_launchpad.png", "dagster_asset.png"])
def test_the_chapter_on_dagster_shows_small_pictures_of_its_page(name: str) -> None:
    assert f"](../pictures/{name})" in PAGES["docs/running/dagster.md"]
    picture = REPOSITORY / "docs" / "pictures" / name
    assert size(picture) == (1280, 760)
    assert picture.stat().st_size < MOST_BYTES


@pytest.mark.slow
@pytest.mark.skipif(not any(map(shutil.which, BROWSERS)), reason="no Chromium here")
def test_the_script_takes_a_picture_of_a_page(tmp_path: Path) -> None:
    (tmp_path / "report.html").write_text("<h1>released</h1>")
    command = [sys.executable, SCRIPT, tmp_path / "report.html", tmp_path / "report.png"]
    subprocess.run(command, check=True, timeout=PATIENCE)
    assert size(tmp_path / "report.png") == (1100, 1080)


def test_without_a_browser_the_script_says_what_to_install(tmp_path: Path) -> None:
    (tmp_path / "report.html").write_text("<h1>released</h1>")
    ended = subprocess.run(
        [sys.executable, SCRIPT, tmp_path / "report.html", tmp_path / "report.png"],
        env={**os.environ, "PATH": str(tmp_path)}, capture_output=True, text=True, timeout=PATIENCE,
    )  # fmt: skip
    assert ended.returncode == 1
    assert "apt-get install chromium" in ended.stderr
