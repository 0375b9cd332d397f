"""Dagster's page in a real Chromium: the graph, curves, reports and the Launchpad."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

from tests.pipeline.place import TINY_CONFIG, Place
from tests.ui.service import LOCATION, PATIENCE, Service, browser, service

if TYPE_CHECKING:
    from playwright.sync_api import Page, ViewportSize

pytest.importorskip("playwright", reason="playwright isn't installed: make test")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(1800),
    pytest.mark.skipif(browser() is None, reason="no Chromium here: apt-get install chromium"),
]
NAME = "tiny"
# The chain, on a machine that does other things, too.
CHAIN_SECONDS = 1200.0
DATA = "actor_training_data"
SIZE: ViewportSize = {"width": 1500, "height": 1100}
GROUPS = {"sources", "data", "synthetic", "scoring", "models", "evaluation", "release"}


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """The page, on a place where the tiny assistant was made."""
    place = Place(tmp_path_factory.mktemp("page"))
    place.add_assistant(NAME, TINY_CONFIG)
    made = place.materialize(NAME, timeout=CHAIN_SECONDS)
    assert made.returncode == 0, made.stderr
    with service(place) as started:
        yield started


@pytest.fixture(scope="module")
def page(running: Service) -> Iterator[Page]:
    from playwright.sync_api import sync_playwright

    program = browser()
    assert program is not None
    with sync_playwright() as driver:
        # Root can't have a sandbox; the page is ours.
        opened = driver.chromium.launch(executable_path=program, args=["--no-sandbox"])
        context = opened.new_context(viewport=SIZE)
        context.set_default_timeout(PATIENCE * 1000)
        yield context.new_page()
        opened.close()


def test_the_graph_shows_the_groups_and_expanded_their_assets(page: Page, running: Service) -> None:
    page.goto(f"{running.url}/asset-groups")
    for group in GROUPS:
        page.get_by_text(group, exact=True).first.wait_for()
    page.keyboard.press("Alt+E")
    # What is out of sight isn't drawn.
    for name in ("grammar", "preference_data", "reward_model"):
        page.get_by_text(name, exact=True).first.wait_for()


def test_curves_and_tables_of_a_model_are_drawn(page: Page, running: Service) -> None:
    page.goto(f"{running.url}/assets/actor_sft?view=partitions&partition={NAME}")
    curve = page.get_by_alt_text("loss", exact=True).first
    curve.wait_for()
    assert curve.evaluate("picture => picture.naturalWidth") == 160
    page.goto(f"{running.url}/assets/{DATA}?view=partitions&partition={NAME}")
    page.get_by_text("dagster/column_schema").first.wait_for()


def test_the_report_opens_by_its_link_and_runs_nothing(page: Page, running: Service) -> None:
    version = running.place.store.read("evaluation", NAME)
    page.goto(f"{running.url}/assets/evaluation?view=partitions&partition={NAME}")
    link = page.locator(f"a[href='{running.reports}/evaluation/{NAME}/{version.id}']").first
    link.wait_for()
    page.goto(link.get_attribute("href") or "")
    assert page.title() == f"{NAME}: held back"
    # A script in it, were there one, would not run.
    file = version.path / "report.html"
    text = file.read_text()
    file.unlink()
    file.write_text(text + "<script>document.title = 'ran'</script>")
    try:
        page.reload()
        assert page.title() == f"{NAME}: held back"
    finally:
        file.write_text(text)


def test_the_launchpad_marks_a_value_of_the_wrong_kind(page: Page, running: Service) -> None:
    page.goto(f"{running.url}{LOCATION}/jobs/all/playground")
    page.locator(".CodeMirror").first.click()
    page.keyboard.press("Control+A")
    page.keyboard.insert_text(
        "resources: {run_options: {config: {overrides: {actor_config.lr: fast}}}}"
    )
    page.get_by_text('Value "fast"').first.wait_for()
