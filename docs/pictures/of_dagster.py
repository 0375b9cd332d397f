"""Dagster's page as docs/running/dagster.md shows it.

    python docs/pictures/of_dagster.py ASSISTANT [URL]

Needs the page (`make ui`; http://127.0.0.1:3000 where no URL is given) with an assistant that was
made, a Chromium, and playwright (`make test` installs it).
"""

from __future__ import annotations

import argparse
from pathlib import Path

from of_report import chromium
from playwright.sync_api import Page, sync_playwright

FOLDER = Path(__file__).parent
WIDTH, HEIGHT = 1280, 760
PATIENCE_SECONDS = 180


def launchpad(page: Page, url: str) -> None:
    """The job that makes all, with what a run of it may be asked."""
    page.goto(f"{url}/locations/chatllama_pipeline.definitions/jobs/all/playground")
    page.get_by_text("take_over", exact=False).first.wait_for()


def model(page: Page, url: str, assistant: str) -> None:
    """The figures and curves of an assistant's evaluation."""
    page.goto(f"{url}/assets/evaluation?view=partitions&partition={assistant}")
    page.get_by_text("verdict", exact=True).first.wait_for()
    page.get_by_alt_text("actor_sft/loss", exact=True).first.scroll_into_view_if_needed()


def take(url: str, assistant: str) -> None:
    """Write both pictures beside this script."""
    with sync_playwright() as driver:
        # Root can't have a sandbox; the page is ours.
        browser = driver.chromium.launch(executable_path=chromium(), args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": WIDTH, "height": HEIGHT})
        page.set_default_timeout(PATIENCE_SECONDS * 1000)
        launchpad(page, url)
        page.wait_for_timeout(3000)  # which the drawing takes, and nothing tells
        page.screenshot(path=FOLDER / "dagster_launchpad.png")
        model(page, url, assistant)
        page.wait_for_timeout(3000)
        page.screenshot(path=FOLDER / "dagster_asset.png")
        browser.close()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("assistant")
    parser.add_argument("url", nargs="?", default="http://127.0.0.1:3000")
    given = parser.parse_args()
    take(given.url, given.assistant)
