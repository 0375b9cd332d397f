"""What a run sees of the store: decided when it begins, gone when its assistant is forgotten."""

from __future__ import annotations

from pathlib import Path

import pytest

from chatllama_pipeline.lineage.recipes import versions_in_use
from chatllama_pipeline.settings.folder import Assistant, load_assistant
from chatllama_pipeline.store.owned import remove_owned
from chatllama_pipeline.store.versions import Store
from chatllama_pipeline.store.views import RunStore, alive, begin_run, newest_run
from tests.store.recipes import recipe, writes

ASSET = "actor_sft"


@pytest.fixture
def mine(tmp_path: Path) -> Assistant:
    folder = tmp_path / "assistants" / "mine"
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text("seed: 1")
    return load_assistant("mine", root=folder.parent)


def begun(tmp_path: Path, mine: Assistant, run: str, experiment: bool = False) -> RunStore:
    return begin_run(tmp_path / "storage", run, mine, experiment=experiment)


def makes(store: Store, text: str) -> str:
    return store.make(recipe(code_version=text), writes(text), {}, force=False).version.id


def standing(store: Store) -> str | None:
    current = store.standing(ASSET, "mine")
    return current.version if current else None


def test_a_run_keeps_the_settings_with_which_it_began(tmp_path: Path, mine: Assistant) -> None:
    begun(tmp_path, mine, "one")
    mine.config.write_text("seed: 2")
    changed = load_assistant("mine", root=mine.folder.parent)
    assert begun(tmp_path, changed, "one").assistant == mine
    assert begun(tmp_path, changed, "two").assistant == changed


def test_what_others_make_meanwhile_is_not_seen_and_what_began_later_stays(
    tmp_path: Path, mine: Assistant
) -> None:
    earlier = begun(tmp_path, mine, "earlier")
    later = begun(tmp_path, mine, "later")
    of_later = makes(later, "later")
    assert earlier.current(ASSET, "mine") is None
    of_earlier = makes(earlier, "earlier")
    assert standing(earlier) == of_later != of_earlier
    kept = earlier.left_to(ASSET, "mine")
    assert kept is not None and kept.run == "later"
    own = earlier.current(ASSET, "mine")
    assert own is not None and own.version == of_earlier


def test_versions_that_a_running_run_sees_are_in_use(tmp_path: Path, mine: Assistant) -> None:
    tried = begun(tmp_path, mine, "tried", experiment=True)
    version = makes(tried, "tried")
    with alive(tried):
        assert versions_in_use(mine, Store(tried.root))[ASSET] == {version}
    assert versions_in_use(mine, Store(tried.root))[ASSET] == set()


def test_views_go_with_their_assistant(tmp_path: Path, mine: Assistant) -> None:
    store = begun(tmp_path, mine, "one")
    assert newest_run(store.root, "mine", since=0.0) is not None
    remove_owned(store.root, "mine")
    assert newest_run(store.root, "mine", since=0.0) is None
