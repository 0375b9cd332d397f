"""Reports and audits open by the links that Dagster's page shows, and nothing else does."""

from __future__ import annotations

import http.client
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from assets.runs.metadata import version_metadata
from chatllama_pipeline.errors import SettingsError
from chatllama_pipeline.records import Outcome
from chatllama_pipeline.serving.api.access.place import open_place
from chatllama_pipeline.serving.reports.addresses import VARIABLE, report_address
from chatllama_pipeline.serving.reports.server import reports_beside
from chatllama_pipeline.store.manifests import Recipe, Version
from chatllama_pipeline.store.versions import Store, Workbench

PAGE = "<!doctype html><title>tiny: released</title><script>document.title = 'ran'</script>"


def published(store: Store, asset: str, upstream: dict[str, str] | None = None) -> Version:
    """A version whose only file is a page."""

    def build(bench: Workbench) -> Outcome:
        (bench.output / "report.html").write_text(PAGE)
        return Outcome()

    recipe = Recipe(asset, "tiny", "1", upstream or {}, {}, {})
    return store.make(recipe, build, overrides={}, force=False).version


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "storage")


@pytest.fixture
def server(store: Store, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The address of a server of this store's reports, as links know it."""
    place = open_place("127.0.0.1", 0, ())
    monkeypatch.setenv(VARIABLE, place.url)
    with reports_beside(place, store):
        yield place.url


@pytest.mark.parametrize("asset", ["evaluation", "data_audit"])
def test_the_link_of_a_version_opens_its_page_which_may_do_nothing(
    store: Store, server: str, asset: str
) -> None:
    link = version_metadata(published(store, asset), reused=False)["report"].url
    assert link.startswith(server)
    answer = httpx.get(link)
    assert (answer.status_code, answer.text) == (200, PAGE)
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    policy = answer.headers["content-security-policy"]
    assert {"default-src 'none'", "sandbox", "form-action 'none'"} <= set(policy.split("; "))
    assert "script-src" not in policy
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["cache-control"] == "no-store"


def test_a_release_links_to_the_report_it_was_released_by(store: Store, server: str) -> None:
    evaluation = published(store, "evaluation")
    release = published(store, "release", {"evaluation": evaluation.id})
    link = version_metadata(release, reused=False)["report"].url
    assert link == report_address("evaluation", "tiny", evaluation.id)
    assert httpx.get(link).status_code == 200


def test_what_is_no_page_of_a_version_is_not_served(store: Store, server: str) -> None:
    found, other = published(store, "evaluation"), published(store, "release")
    (store.root / "secret").write_text("s")
    host, port = server.removeprefix("http://").split(":")
    for path in (
        "/",
        "/secret",
        f"/release/tiny/{other.id}",
        f"/evaluation/tiny/{found.id}/manifest.json",
        f"/evaluation/tiny/{found.id[:8]}",
        f"/evaluation/other/{found.id}",
        f"/evaluation/../evaluation/tiny/{found.id}",
        f"/evaluation/..%2Fevaluation%2Ftiny/{found.id}",
        "/evaluation/tiny/..%2F..%2F..%2Fsecret",
        "/evaluation/%00/0123456789abcdef",
    ):
        # Past clients that tidy a path up.
        connection = http.client.HTTPConnection(host, int(port))
        connection.request("GET", path)
        assert connection.getresponse().status == 404, path
        connection.close()


def test_a_page_that_is_a_link_out_of_the_store_is_not_served(
    store: Store, server: str, tmp_path: Path
) -> None:
    found = published(store, "evaluation")
    link = report_address("evaluation", "tiny", found.id)
    (tmp_path / "passwords").write_text("s")
    (found.path / "report.html").unlink()
    (found.path / "report.html").symlink_to(tmp_path / "passwords")
    assert httpx.get(link).status_code == 404


def test_nothing_can_be_written_and_no_other_name_asks(store: Store, server: str) -> None:
    link = report_address("evaluation", "tiny", published(store, "evaluation").id)
    for method in ("POST", "PUT", "DELETE", "PATCH"):
        assert httpx.request(method, link).status_code == 405
    assert httpx.get(link, headers={"Host": "evil.example:3001"}).status_code == 400


def test_an_address_of_reports_that_is_none_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    for text in ("dagster.example.org", "file:///srv", "javascript:alert(1)"):
        monkeypatch.setenv(VARIABLE, text)
        with pytest.raises(SettingsError, match="is no address: write it as a browser shows it"):
            report_address("evaluation", "tiny", "0")
    monkeypatch.setenv(VARIABLE, "https://dagster.example.org/reports/")
    assert report_address("evaluation", "tiny", "0") == (
        "https://dagster.example.org/reports/evaluation/tiny/0"
    )
