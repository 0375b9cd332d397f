"""The top of a report as README shows it.

    python docs/pictures/of_report.py REPORT.html [PICTURE.png]

Needs a Chromium: `apt-get install chromium`, or any that is called by one of the names below.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
from pathlib import Path

NAMES = ("chromium", "chromium-browser", "google-chrome")
PICTURE = Path(__file__).parent / "report.png"
# Verdict, figures and the first row of curves, in pixels.
WIDTH, HEIGHT = 1100, 1080


def chromium() -> str:
    """The program; the script ends where there is none."""
    program = next(filter(None, map(shutil.which, NAMES)), None)
    if program is None:
        sys.exit(f"no Chromium here (looked for {', '.join(NAMES)}): apt-get install chromium")
    return program


def take(report: Path, picture: Path) -> None:
    """Write what a window of WIDTH by HEIGHT shows of `report` to `picture`."""
    subprocess.run(
        [
            *(chromium(), "--headless", "--disable-gpu", "--hide-scrollbars"),
            "--no-sandbox",  # which root can't have; the page is ours, and loads nothing
            f"--window-size={WIDTH},{HEIGHT}",
            f"--screenshot={picture.resolve()}",
            report.resolve(strict=True).as_uri(),
        ],
        check=True,
        capture_output=True,
        timeout=60,
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("report", type=Path)
    parser.add_argument("picture", type=Path, nargs="?", default=PICTURE)
    given = parser.parse_args()
    take(given.report, given.picture)
