"""Dagster's page in a real Chromium: looked at, and clicked through, as a person would."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import pytest

from resources.signs_of_life import FOLDER, process_of
from tests.pipeline.place import TINY_CONFIG, Place
from tests.ui.service import LOCATION, PATIENCE, Service, browser, service, wait_for

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
    """The page, on a place where the tiny assistant waits to be made."""
    place = Place(tmp_path_factory.mktemp("page"))
    place.add_assistant(NAME, TINY_CONFIG)
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


def choose_partition(page: Page) -> None:
    # Beside what is seen, the page has a copy of each name to measure it by.
    page.get_by_text(NAME, exact=True).locator("visible=true").last.click()


def asked_for(running: Service, click: Callable[[], None]) -> str:
    """The run that comes of a click."""
    before = running.runs()
    click()
    return str(wait_for(lambda: running.runs().keys() - before.keys(), "the run").pop())


def is_written(page: Page, config: str) -> bool:
    """Whether the Launchpad holds `config`; where it doesn't, that is written."""
    editor = page.locator(".CodeMirror").first
    if editor.evaluate("editor => editor.CodeMirror.getValue()") == config:
        return True
    editor.click()
    page.keyboard.press("Control+A")
    page.keyboard.insert_text(config)
    return False


def launch(page: Page, running: Service, job: str, config: str) -> str:
    """Choose the assistant in a job's Launchpad, write `config` there and launch; the run."""
    page.goto(f"{running.url}{LOCATION}/jobs/{job}/playground")
    page.get_by_placeholder("Partition").click()
    choose_partition(page)
    # The choice of a partition brings the job's default config, some time later.
    wait_for(lambda: is_written(page, config), "the config in the Launchpad")
    button = page.get_by_role("button", name="Launch Run")
    wait_for(button.is_enabled, "a config that the Launchpad takes")
    return asked_for(running, button.click)


@pytest.fixture(scope="module")
def made(page: Page, running: Service) -> str:
    """The run that makes all of the assistant, by "Materialize all" on the job's page."""
    page.goto(f"{running.url}{LOCATION}/jobs/all")
    page.get_by_role("button", name="Materialize all").first.click()
    page.get_by_text("Select a partition or create one").click()
    choose_partition(page)
    run = asked_for(running, page.get_by_role("button", name="Launch 1 run").click)
    assert running.ended(run, CHAIN_SECONDS) == "SUCCESS"
    return run


def test_an_assistant_is_made_by_clicking(page: Page, running: Service, made: str) -> None:
    version = running.place.store.read("evaluation", NAME)
    page.goto(f"{running.url}/runs/{made}")
    page.get_by_text("Success", exact=True).first.wait_for()
    page.goto(f"{running.url}/assets/evaluation?view=partitions&partition={NAME}")
    page.get_by_text(version.id).first.wait_for()


def test_the_graph_shows_the_groups_and_expanded_their_assets(page: Page, running: Service) -> None:
    page.goto(f"{running.url}/asset-groups")
    for group in GROUPS:
        page.get_by_text(group, exact=True).first.wait_for()
    page.keyboard.press("Alt+E")
    # What is out of sight isn't drawn.
    for name in ("grammar", "preference_data", "reward_model"):
        page.get_by_text(name, exact=True).first.wait_for()


def test_curves_and_tables_of_a_model_are_drawn(page: Page, running: Service, made: str) -> None:
    page.goto(f"{running.url}/assets/actor_sft?view=partitions&partition={NAME}")
    curve = page.get_by_alt_text("loss", exact=True).first
    curve.wait_for()
    assert curve.evaluate("picture => picture.naturalWidth") == 160
    page.goto(f"{running.url}/assets/{DATA}?view=partitions&partition={NAME}")
    page.get_by_text("dagster/column_schema").first.wait_for()


def test_the_report_opens_by_its_link_and_runs_nothing(
    page: Page, running: Service, made: str
) -> None:
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
    is_written(page, "resources: {run_options: {config: {overrides: {actor_config.lr: fast}}}}")
    page.get_by_text('Value "fast"').first.wait_for()


def test_a_run_is_ended_by_clicking_with_its_state_saved(
    page: Page, running: Service, made: str
) -> None:
    config = (
        "resources: {run_options: {config: {overrides: {actor_config.max_steps: 20000, "
        "actor_config.checkpoint_steps: 5}}}}"
    )
    run = launch(page, running, "actor", config)
    folder = running.place.store.root / "_runs" / "actor_sft" / NAME
    wait_for(lambda: list(folder.rglob("state/*.json")), "a saved state of the training")
    page.goto(f"{running.url}/runs/{run}")
    page.get_by_role("button", name="Terminate").click()
    page.get_by_role("button", name="Terminate 1 run").click()
    assert running.ended(run) == "CANCELED"
    assert process_of(running.place.root / "dagster_home" / FOLDER, run) is None
    [log] = folder.rglob("spec.log")
    assert "its state is saved" in log.read_text()


def test_a_rollback_by_clicking_takes_the_version_before_into_use(
    page: Page, running: Service, made: str
) -> None:
    store = running.place.store
    first = store.read(DATA, NAME).id
    other = TINY_CONFIG.replace("actor_replies: both", "actor_replies: chosen")
    running.place.add_assistant(NAME, other)
    assert running.ended(launch(page, running, "audit", "{}")) == "SUCCESS"
    assert store.read(DATA, NAME).id != first
    config = f"ops: {{roll_back: {{config: {{asset: {DATA}}}}}}}"
    assert running.ended(launch(page, running, "rollback", config)) == "SUCCESS"
    assert store.read(DATA, NAME).id == first
