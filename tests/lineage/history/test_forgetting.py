"""Forgetting an assistant: what the store holds of it goes, and what stays is told."""

from __future__ import annotations

import fcntl
from pathlib import Path

import pytest

from chatllama_pipeline.errors import StoreError, UnknownAssistantError
from chatllama_pipeline.lineage.history.forgetting import forget
from chatllama_pipeline.llm.client.cache import AnswerCache, Asked, cache_file
from chatllama_pipeline.llm.client.requests import LlmReply, LlmRequest
from chatllama_pipeline.records import Message
from chatllama_pipeline.store.approvals import approve
from chatllama_pipeline.store.feedback import Entry, FeedbackLog
from chatllama_pipeline.store.versions import Store
from tests.lineage.conftest import Make, write_config

SECRET = "x" * 6000 + " what only mine knows"


def files_with(root: Path, text: str) -> list[Path]:
    """Every file under `root` that holds the text."""
    found = (path for path in sorted(root.rglob("*")) if path.is_file())
    return [path for path in found if text.encode() in path.read_bytes()]


def test_all_that_a_store_holds_of_an_assistant_goes_and_nothing_of_another(
    make: Make, store: Store
) -> None:
    make("actor_sft", SECRET)
    others = make("actor_sft", "another's", owner="another")
    source = make("grammar", "public", owner=None)
    for folder in (
        "_runs/actor_ppo/mine/ab",
        "_logs/mine/actor_ppo/ab",
        "_staging/actor_ppo/mine",
        "_views/mine/run1",
        "_trials/mine/trial",
    ):
        (store.root / folder).mkdir(parents=True)
        (store.root / folder / "file").write_text(SECRET)
    approve(store.root, "mine", "ab", "anna")
    FeedbackLog(store.root, "mine").add([Entry("rating-0000000001", "", "now", SECRET)])

    lines = list(forget("mine", store.root, with_folder=False))
    assert files_with(store.root, "what only mine knows") == []
    assert [path for path in store.root.rglob("mine")] == []
    assert store.read("actor_sft", "another").id == others.id
    assert store.read("grammar", None).id == source.id
    assert "removed 1 ratings" in lines
    config = store.root.parent / "assistants" / "mine"
    assert config.is_dir()
    assert any(line.startswith(f"kept {config}: ") and "--folder" in line for line in lines)
    assert any("public sources" in line for line in lines)


def test_its_folder_goes_where_that_is_asked_for(make: Make, store: Store) -> None:
    make("actor_sft", "one")
    list(forget("mine", store.root, with_folder=True))
    assert not (store.root.parent / "assistants" / "mine").exists()


def test_an_assistant_without_a_folder_is_forgotten_too(make: Make, store: Store) -> None:
    make("actor_sft", "one", owner="gone")
    list(forget("gone", store.root, with_folder=False))
    assert list(store.root.rglob("gone")) == []


def test_answers_that_it_alone_asked_for_go_from_the_file_and_shared_ones_stay(
    store: Store,
) -> None:
    cache = AnswerCache(cache_file(store.root))
    for key, scopes in {
        "own": ["a/mine/1"],
        "shared": ["a/mine/1", "a/mine_too/1"],
        "others": ["a/mine_too/1"],
        "nobodys": [""],
    }.items():
        request = LlmRequest([Message("user", f"a question that is {key}")], 0.0, 9)
        for scope in scopes:
            asked = Asked(key, "openai", "https://x", "m", request)
            cache.write(asked, LlmReply("yes", "stop", 1, 1, False, "m"), 0.5, scope)
    cache.close()
    lines = list(forget("mine", store.root, with_folder=False))
    assert "removed 1 answers of language models" in lines
    assert "kept 1 answers: other assistants asked the same" in lines
    assert any(line.startswith("kept 1 answers of which nothing says who asked") for line in lines)
    cache = AnswerCache(cache_file(store.root))
    assert sorted(cache.read(["own", "shared", "others", "nobodys"])) == [
        "nobodys",
        "others",
        "shared",
    ]
    assert cache.paid("a/mine/1") == 0.0 and cache.paid("a/mine_too/1") == 1.0
    cache.close()
    assert files_with(store.root, "a question that is own") == []


def test_who_reads_an_answer_has_asked_for_it(store: Store) -> None:
    cache = AnswerCache(cache_file(store.root))
    asked = Asked("k", "openai", "https://x", "m", LlmRequest([Message("user", "?")], 0.0, 9))
    cache.write(asked, LlmReply("yes", "stop", 1, 1, False, "m"), 0.0, "a/mine/1")
    assert cache.read(["k"], "a/another/1")
    found = cache.forget("mine")
    assert (found.removed, found.shared) == (0, 1)
    assert cache.read(["k"])
    assert cache.forget("another").removed == 1
    cache.close()


def test_while_an_asset_is_being_made_nothing_goes(make: Make, store: Store) -> None:
    made = make("actor_sft", "one")
    with (store.root / "actor_sft" / "mine" / ".lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(StoreError, match="actor_sft of mine is being made: wait for the end"):
            list(forget("mine", store.root, with_folder=True))
    assert store.read("actor_sft", "mine").id == made.id


@pytest.mark.parametrize("name", ["nobody", "../mine", "_shared", "*"])
def test_an_unknown_name_is_told(make: Make, store: Store, name: str) -> None:
    make("grammar", "one", owner=None)
    write_config(store.root.parent, "seed: 0")
    with pytest.raises(UnknownAssistantError):
        list(forget(name, store.root, with_folder=True))
