"""Where public data comes from: the hub at a commit, folders, files, URLs; with broken networks."""

from __future__ import annotations

import gzip
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pyarrow.parquet as pq
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from chatllama_pipeline.data.sources.catalog import build_source, source_inputs
from chatllama_pipeline.data.sources.places import Asked
from chatllama_pipeline.errors import DataError
from chatllama_pipeline.lineage.recipes import source_recipe
from chatllama_pipeline.store.manifests import Manifest
from chatllama_pipeline.store.versions import Made, Store
from tests.data.loopback import Hub, served


def hh_line(question: str) -> str:
    start = f"\n\nHuman: {question}\n\nAssistant:"
    return json.dumps({"chosen": f"{start} Yes.", "rejected": f"{start} No."}) + "\n"


def hh_gzip(*questions: str) -> bytes:
    return gzip.compress("".join(map(hh_line, questions)).encode(), mtime=0)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A hub on loopback that `huggingface_hub` takes for its own, with a cache of the test's."""
    from huggingface_hub import constants

    with served(Hub()) as running:
        # The library reads its environment when it is imported.
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "ENDPOINT", running.url)
        template = running.url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hf"))
        monkeypatch.setenv("HF_HUB_OFFLINE", "0")
        monkeypatch.setenv("HF_TOKEN", "hf_secret")
        monkeypatch.delenv("CHATLLAMA_HH_RLHF", raising=False)
        yield running


def made(root: Path, **options: Any) -> tuple[Made, Manifest]:
    """What the asset does."""
    asked = Asked(**options)
    store = Store(root / "store")
    recipe = source_recipe("hh_rlhf", store, asked)
    done = store.make(
        recipe,
        lambda work: build_source("hh_rlhf", work.output, asked, recipe.inputs, work.run_folder),
        {},
        asked.refresh,
    )
    return done, done.version.manifest


def test_a_hub_dataset_stays_at_its_commit_until_a_refresh_is_asked_for(
    hub: Hub, tmp_path: Path
) -> None:
    layout = {
        "harmless-base/train.jsonl.gz": hh_gzip("a", "b"),
        "helpful-base/test.jsonl.gz": hh_gzip("c"),
        "red-team-attempts/red_team_attempts.jsonl.gz": hh_gzip("no pair"),
        "README.md": b"---\nlicense: mit-of-the-card\n---\n",
    }
    first = hub.commit(1, layout)
    done, found = made(tmp_path)
    assert (found.rows, done.reused) == (3, False)
    assert found.inputs == {"location": "Anthropic/hh-rlhf", "revision": first}
    assert found.metrics["domains"] == {"harmless-base": 2, "helpful-base": 1}
    assert found.metrics["licence"] == "mit-of-the-card"
    assert found.metrics["revision"] == first
    assert hub.tokens == {"Bearer hf_secret"}
    assert not [path for path in hub.asked if "red-team" in path]

    second = hub.commit(2, {**layout, "helpful-base/train.jsonl.gz": hh_gzip("d", "e")})
    hub.asked.clear()
    again, same = made(tmp_path)
    assert (again.reused, same.inputs["revision"], hub.asked) == (True, first, [])
    # Status looks at no network, even where nothing is known.
    elsewhere = Asked(source="Anthropic/other")
    told = source_inputs("hh_rlhf", elsewhere, None, look=False)
    assert (told["revision"], hub.asked) == ("not looked up", [])
    _, fresh = made(tmp_path, refresh=True)
    assert (fresh.rows, fresh.inputs["revision"]) == (5, second)
    _, pinned = made(tmp_path, source=f"Anthropic/hh-rlhf@{first}")
    assert (pinned.rows, pinned.version) == (3, found.version)


def test_a_broken_download_is_continued_and_an_unreachable_hub_says_what_to_set(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    many = hh_gzip(*(f"question {number} {number * 7919}" for number in range(3000)))
    commit = hub.commit(1, {"harmless-base/train.jsonl.gz": many})
    path = f"/datasets/Anthropic/hh-rlhf/resolve/{commit}/harmless-base/train.jsonl.gz"
    hub.break_off.add(path)
    assert made(tmp_path)[1].rows == 3000
    # The half that came was not taken for the whole: the rest, or all, was asked for again.
    assert hub.asked.count(f"GET {path}") == 2

    from huggingface_hub import constants

    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    done, kept = made(tmp_path)
    assert (kept.rows, done.reused) == (3000, True)
    with pytest.raises(DataError) as failure:
        made(tmp_path, source="Anthropic/other")
    assert "Anthropic/other could not be had from the hub" in str(failure.value)
    assert "set CHATLLAMA_HH_RLHF, or `source` in the run config" in str(failure.value)


def test_offline_a_commit_in_the_cache_serves_and_nothing_is_asked_for(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit = hub.commit(1, {"harmless-base/train.jsonl.gz": hh_gzip("a")})
    made(tmp_path)
    hub.asked.clear()
    (tmp_path / "store").rename(tmp_path / "elsewhere")
    _, found = made(tmp_path, offline=True)
    assert (found.rows, found.inputs["revision"], hub.asked) == (1, commit, [])
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(DataError, match="not in the hub's cache, and this run is offline"):
        made(tmp_path, source="Anthropic/other")


def test_files_behind_a_url_are_fetched_whole_and_kept_where_the_next_one_broke_off(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.files["plain"] = {"hh/rows.jsonl.gz": hh_gzip("a", "b")}
    asked = Asked(source=f"{hub.url}/hh/rows.jsonl.gz")
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    hub.break_off.add("/hh/rows.jsonl.gz")
    with pytest.raises(DataError, match=r"rows\.jsonl\.gz"):
        build_source("hh_rlhf", _folder(tmp_path, "a"), asked, None, tmp_path / "scratch")
    assert not list((tmp_path / "scratch").rglob("rows.jsonl.gz"))
    outcome = build_source("hh_rlhf", _folder(tmp_path, "b"), asked, None, tmp_path / "scratch")
    assert outcome.rows == 2
    state = source_inputs("hh_rlhf", asked, None)
    hub.files["plain"] = {"hh/rows.jsonl.gz": hh_gzip("a", "b", "c")}
    assert source_inputs("hh_rlhf", asked, state) != state
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert source_inputs("hh_rlhf", asked, state) == state
    with pytest.raises(DataError, match="this run is offline"):
        source_inputs("hh_rlhf", asked, None)


def test_any_file_system_of_fsspec_serves(tmp_path: Path) -> None:
    memory = fsspec.filesystem("memory")
    memory.pipe("/hh/helpful-base/train.jsonl.gz", hh_gzip("a", "b"))
    memory.pipe("/hh/red-team-attempts/x.jsonl.gz", hh_gzip("x"))
    asked = Asked(source="memory://hh")
    outcome = build_source("hh_rlhf", _folder(tmp_path, "a"), asked)
    assert (outcome.rows, outcome.metrics["domains"]) == (2, {"helpful-base": 2})

    file = tmp_path / "rows.jsonl"
    file.write_text(hh_line("a"))
    outcome = build_source("hh_rlhf", _folder(tmp_path, "b"), Asked(source=file.as_uri()))
    assert outcome.rows == 1


class Forgetful(MemoryFileSystem):  # type: ignore[misc]
    """A file system that ends a file early and says nothing."""

    protocol = "forgetful"

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        found: str = super()._strip_protocol(path.replace("forgetful://", "memory://"))
        return found

    def info(self, path: str, **options: Any) -> dict[str, Any]:
        told: dict[str, Any] = super().info(path, **options)
        return {**told, "size": told["size"] + 10}


def test_a_file_that_ends_early_without_an_error_is_not_taken_for_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    fsspec.register_implementation("forgetful", Forgetful, clobber=True)
    fsspec.filesystem("memory").pipe("/short/rows.jsonl", hh_line("a").encode())
    asked = Asked(source="forgetful://short/rows.jsonl")
    with pytest.raises(DataError, match=r"rows\.jsonl broke off after \d+ of \d+ bytes"):
        build_source("hh_rlhf", _folder(tmp_path, "a"), asked)
    assert not list(tmp_path.rglob("rows.jsonl"))


def test_a_folder_that_changes_in_place_is_noticed_and_one_that_moves_is_not(
    tmp_path: Path,
) -> None:
    folder = _folder(tmp_path, "here") / "harmless-base"
    folder.mkdir()
    (folder / "train.jsonl").write_text(hh_line("a"))
    store = Store(tmp_path / "store")

    def recipe(place: str) -> str:
        return source_recipe("hh_rlhf", store, Asked(source=str(tmp_path / place))).fingerprint

    before = recipe("here")
    (tmp_path / "here").rename(tmp_path / "there")
    assert recipe("there") == before
    changed = tmp_path / "there" / "harmless-base" / "train.jsonl"
    stamp = changed.stat()
    changed.write_text(hh_line("b"))
    os.utime(changed, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    assert recipe("there") != before


def test_the_order_of_files_changes_no_version(tmp_path: Path) -> None:
    lines = [hh_line(f"question {number}") for number in range(40)]
    tables = []
    for name, order in (("a", lines), ("b", lines[::-1])):
        folder = _folder(tmp_path, name) / "harmless-base"
        folder.mkdir()
        (folder / "one.jsonl").write_text("".join(order[:25]))
        (folder / "two.jsonl").write_text("".join(order[25:]))
        output = _folder(tmp_path, f"out_{name}")
        build_source("hh_rlhf", output, Asked(source=str(tmp_path / name)))
        tables.append((output / "data.parquet").read_bytes())
    assert tables[0] == tables[1]
    assert pq.read_table(tmp_path / "out_a" / "data.parquet").num_rows == 40


@pytest.mark.parametrize(
    ("source", "told"),
    [
        ("/no/such/folder", "there is no file or folder /no/such/folder"),
        ("./nor/here", "there is no file or folder nor/here"),
        ("hh", "'hh' is neither a hub id"),
        ("a/b/c", "'a/b/c' is neither a hub id"),
    ],
)
def test_a_place_that_is_none_is_told(source: str, told: str) -> None:
    with pytest.raises(DataError, match=told):
        source_inputs("hh_rlhf", Asked(source=source), None)


def _folder(root: Path, name: str) -> Path:
    folder = root / name
    folder.mkdir()
    return folder
