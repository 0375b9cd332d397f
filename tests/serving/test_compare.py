"""`chatllama compare` on real releases, and the trial's page by its API."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from click.testing import CliRunner, Result

from chatllama_pipeline.cli.serving.serve import serve
from chatllama_pipeline.cli.versions.compare import compare
from chatllama_pipeline.data.tables import user_messages, write_rows
from chatllama_pipeline.errors import AbsentError, DataError, SettingsError
from chatllama_pipeline.evaluation.trials.writing import write_trial
from chatllama_pipeline.progress import Progress
from chatllama_pipeline.records import TABLE_FILE, Outcome
from chatllama_pipeline.schemas import PROMPT_SCHEMA
from chatllama_pipeline.serving.wanted import Wanted
from chatllama_pipeline.settings import AssistantSettings
from chatllama_pipeline.store.feedback import FeedbackLog
from chatllama_pipeline.store.manifests import Recipe, Version
from chatllama_pipeline.store.trials import Trial, trials_of
from chatllama_pipeline.store.versions import Store, Workbench
from tests.pipeline.place import REPOSITORY
from tests.serving.served import NAME, Served, serving
from tests.waiting import PATIENCE, wait_until

if TYPE_CHECKING:
    from playwright.sync_api import Page

WORDS = ("alpha", "bravo", "kilo", "lima", "alpha")
CONFIG = """
actor_config: {max_sequence_length: 128, max_tokens: 12}
evaluation: {judge: rubric}
rubric: [{name: short, words: [0, 1]}]
"""
ANN, BEN = "visit-ann-000000001", "visit-ben-000000001"


def prompts(store: Store, words: tuple[str, ...], split: str = "test") -> Version:
    """A version of `rlhf_training_data` that asks these."""
    recipe = Recipe("rlhf_training_data", NAME, "1", {}, {}, {"words": [*words, split]})

    def build(bench: Workbench) -> Outcome:
        rows = [{"prompt": user_messages(word), "source": "mine", "split": split} for word in words]
        write_rows(rows, PROMPT_SCHEMA, bench.output, TABLE_FILE)
        return Outcome()

    return store.make(recipe, build, {}, force=False).version


@pytest.fixture
def mine(
    released: tuple[Store, Version, Version], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> tuple[Store, Version, Version]:
    """A store of one's own with two releases and test prompts."""
    root = tmp_path / "store"
    shutil.copytree(released[0].root, root)
    folder = tmp_path / "assistants" / NAME
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(CONFIG)
    monkeypatch.setenv("CHATLLAMA_ASSISTANTS", str(folder.parent))
    monkeypatch.setenv("CHATLLAMA_STORE", str(root))
    store = Store(root)
    prompts(store, WORDS)
    versions = [store.version("release", NAME, version.id) for version in released[1:]]
    assert versions[0] and versions[1]
    return store, versions[0], versions[1]


def run(*arguments: str, typed: str = "") -> Result:
    return CliRunner().invoke(compare, [NAME, *arguments], input=typed)


def test_raters_compare_real_replies_and_the_results_are_told(
    mine: tuple[Store, Version, Version],
) -> None:
    store, first, second = mine
    pair = (first.id, second.id)
    done = run(*pair, "--rater", "ann", typed="l\ntie\nskip\nr\nn\n")
    assert done.exit_code == 0, done.exception
    assert "all rated" in done.stderr and first.id not in done.stdout
    [trial] = trials_of(store.root, NAME)
    # One of the five stands twice; both releases write nonsense, each its own.
    assert len(trial.pairs) == len(trial.open_pairs) == 4
    assert f"{first.id} of release of assistant {NAME} answers 4 of them" in done.stderr
    again = run(second.id, first.id, "--rater", "ben", typed="l\nl\nquit\n")
    assert "2 pairs are left to you" in again.stderr and "answers" not in again.stderr
    assert trials_of(store.root, NAME) == [trial]
    entries = FeedbackLog(store.root, NAME).entries()
    assert len(entries) == 6 and len({entry.visit for entry in entries}) == 2
    assert {json.loads(entry.content)["trial"] for entry in entries} == {trial.id}

    told = run(*pair, "--results").stdout
    assert f"trial {trial.id}" in told and "6 votes by 2 raters" in told
    assert f"of release {second.id} over release {first.id}" in told
    assert "the judge rubric prefers what people prefer in" in told
    assert "the left reply won" in told
    FeedbackLog(store.root, NAME).delete(ids=[entry.id for entry in entries[:1] + entries[2:]])
    undecided = run(*pair, "--results").stdout
    assert "people prefer neither version on any prompt" in undecided
    turned = run(*reversed(pair), "--results").stdout
    assert f"of release {first.id} over release {second.id}" in turned


def test_a_trial_that_begins_asks_so_many_prompts_and_another_number_begins_another(
    mine: tuple[Store, Version, Version],
) -> None:
    store, first, second = mine
    assert run(first.id, second.id, "--prompts", "2").exit_code == 0
    assert run(first.id, second.id, "--prompts", "2").exit_code == 0
    [trial] = trials_of(store.root, NAME)
    assert len(trial.pairs) == 2
    assert run(first.id, second.id, "--prompts", "9").exit_code == 0
    assert [len(found.pairs) for found in trials_of(store.root, NAME)] == [4, 2]


def test_what_stands_in_the_way_of_a_trial_is_told(mine: tuple[Store, Version, Version]) -> None:
    store, first, second = mine
    cases: list[tuple[tuple[str, ...], type[Exception], str]] = [
        ((first.id, first.id), SettingsError, "are the same version"),
        (
            (first.id, "0123"),
            AbsentError,
            "no version 0123 that speaks; those there are: release ",
        ),
        ((first.id, "candidate"), AbsentError, "evaluation of assistant tiny was never made"),
        ((first.id, second.id, "--results"), AbsentError, "there is no trial of"),
    ]
    for arguments, kind, part in cases:
        error = run(*arguments).exception
        assert isinstance(error, kind) and part in str(error)
    run(first.id, second.id, typed="quit\n")
    error = run(first.id, second.id, "--results").exception
    assert isinstance(error, AbsentError) and "nobody has voted in trial" in str(error)
    prompts(store, ("alpha",), split="train")
    error = run(first.id, second.id, "--prompts", "3").exception
    assert isinstance(error, DataError) and "holds no test prompt" in str(error)


def test_a_version_that_is_pruned_amid_a_trial_leaves_it_as_it_is(
    mine: tuple[Store, Version, Version],
) -> None:
    store, first, second = mine
    run(first.id, second.id, typed="l\n")
    store.remove([first])
    done = run(first.id, second.id, typed="l\nl\nl\n")
    assert "all rated" in done.stderr
    told = run(first.id, second.id, "--results").stdout
    assert f"release {first.id} was removed since; its replies stand in the trial" in told
    assert "4 votes by 1 raters" in told
    error = run(first.id, second.id, "--prompts", "2").exception
    assert isinstance(error, AbsentError) and f"no version {first.id}" in str(error)


def test_the_page_of_a_trial_asks_for_a_page(mine: tuple[Store, Version, Version]) -> None:
    _, first, second = mine
    told = CliRunner().invoke(serve, [NAME, "--compare", first.id, second.id])
    assert "--compare is a page: add --page" in told.output
    told = CliRunner().invoke(serve, [NAME, "--page", "--port", "0", "--compare", first.id, "0123"])
    assert isinstance(told.exception, AbsentError) and "no version 0123" in str(told.exception)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_command_serves_the_page_of_a_trial_that_it_begins(
    mine: tuple[Store, Version, Version],
) -> None:
    store, first, second = mine
    command = [sys.executable, "-m", "chatllama_pipeline", "serve", NAME, "--page", "--port", "0"]
    with subprocess.Popen(
        [*command, "--compare", first.id, second.id],
        cwd=REPOSITORY,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY), "PYTHONUNBUFFERED": "1"},
        stderr=subprocess.PIPE,
        text=True,
    ) as server:
        try:
            assert server.stderr is not None
            told = next(line for line in server.stderr if line.startswith("rate at "))
            with urllib.request.urlopen(
                f"{told.split()[-1]}v1/trial?visit={ANN}", timeout=PATIENCE
            ) as answer:
                pairs = json.load(answer)
        finally:
            server.kill()
    [trial] = trials_of(store.root, NAME)
    assert (pairs["id"], len(pairs["pairs"])) == (trial.id, 4)


@pytest.fixture(scope="module")
def tried(
    released: tuple[Store, Version, Version], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Served, Trial]]:
    """A server of the second release, with the page of a trial of both."""
    _, first, second = released
    place = tmp_path_factory.mktemp("trial")
    settings = AssistantSettings.model_validate(yaml.safe_load(CONFIG))
    asked = prompts(Store(place), WORDS)
    progress = Progress("compare", lambda line: None)
    trial = write_trial(first, second, settings, asked.path, 40, progress)
    log = FeedbackLog(place, NAME)
    with serving([Wanted(second, 1.0)], feedback=log, page=True, trial=trial) as running:
        yield running, trial


def test_raters_are_shown_pairs_without_versions_and_their_votes_stand_once(
    tried: tuple[Served, Trial],
) -> None:
    served, trial = tried
    assert "Which reply is better?" in served.ask("/")[2]
    status, _, told = served.ask(f"/v1/trial?visit={ANN}")
    assert status == 200 and (told["id"], told["of"], len(told["pairs"])) == (trial.id, 4, 4)
    for side in (trial.first, trial.second):
        assert side.version not in json.dumps(told)
    vote: dict[str, Any] = {"visit": ANN, "pair": told["pairs"][0]["pair"], "better": "left"}
    assert [served.ask("/v1/trial", vote)[2]["added"] for _ in range(2)] == [True, False]
    assert served.ask("/v1/trial", vote | {"better": "tie"})[0] == 409
    [entry] = served.feedback.entries(ANN)
    said = json.loads(entry.content)
    assert said["trial"] == trial.id and said["left"]["text"] == told["pairs"][0]["left"]
    left = served.ask(f"/v1/trial?visit={ANN}")[2]["pairs"]
    assert left == told["pairs"][1:]
    assert len(served.ask(f"/v1/trial?visit={BEN}")[2]["pairs"]) == 4


def test_what_is_no_vote_is_refused(tried: tuple[Served, Trial]) -> None:
    served, trial = tried
    before = served.feedback.entries()
    vote: dict[str, Any] = {"visit": ANN, "pair": 0, "better": "left"}
    cases = [
        ({"visit": "me"}, 400, "visit: string should match"),
        ({"visit": 7}, 400, "visit: input should be a valid string"),
        ({"pair": "0"}, 400, "pair: input should be a valid integer"),
        ({"pair": True}, 400, "pair: input should be a valid integer"),
        ({"pair": 99}, 409, "asks nobody about a pair 99"),
        ({"better": "both"}, 400, "better: input should be 'left', 'right', 'tie' or 'neither'"),
        ({"better": ["left"]}, 400, "better: input should be"),
        ({"reason": "x" * 2001}, 400, "reason: string should have at most 2000"),
        ({"reason": "\ud800"}, 400, "reason: input should be a valid string"),
        ({"versions": []}, 400, "versions: extra inputs are not permitted"),
    ]
    for more, status, part in cases:
        answer = served.ask("/v1/trial", vote | more)
        assert answer[0] == status and part in answer[2]["error"]["message"], answer
    assert served.ask("/v1/trial")[0] == 400
    forged = {
        "kind": "preference",
        "prompt": [{"role": "user", "content": "alpha"}],
        "left": {"text": "a", "version": trial.first.version},
        "right": {"text": "b", "version": trial.second.version},
        "better": "left",
        "trial": trial.id,
    }
    answer = served.ask("/v1/feedback", forged)
    assert answer[0] == 400 and "votes are given at /v1/trial" in answer[2]["error"]["message"]
    assert served.feedback.entries() == before


def test_without_a_trial_there_is_no_such_address(served: Served) -> None:
    assert served.ask(f"/v1/trial?visit={ANN}")[0] == 404


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_rater_at_the_page_votes_by_the_keyboard_on_a_phone_and_is_asked_nothing_twice(
    tried: tuple[Served, Trial], phone: Page
) -> None:
    served, trial = tried
    before = served.feedback.entries()
    phone.goto(f"http://127.0.0.1:{served.port}/")
    to_go = phone.locator("#left")

    def waits(text: str) -> None:
        wait_until(lambda: to_go.text_content() == text, lambda: str(to_go.text_content()))

    waits("4 of 4 to go")
    assert phone.locator("#pair .text").count() == 3
    assert phone.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    phone.keyboard.press("1")
    waits("3 of 4 to go")
    shown = phone.locator("#pair").inner_text()
    phone.keyboard.press("5")
    wait_until(lambda: phone.locator("#pair").inner_text() != shown)
    waits("3 of 4 to go")
    phone.keyboard.press("Tab")
    assert phone.evaluate("document.activeElement.textContent") == "First (1)"
    for _ in range(3):
        phone.keyboard.press("Tab")
    phone.keyboard.press("Enter")
    waits("2 of 4 to go")
    for side in (trial.first, trial.second):
        assert side.version not in phone.content()
    phone.reload()
    waits("2 of 4 to go")
    phone.get_by_role("button", name="Second (2)").click()
    waits("1 of 4 to go")
    phone.keyboard.press("3")
    waits("0 of 4 to go")
    assert "you have rated all there is" in phone.locator("#pair").inner_text()
    assert not phone.locator("#votes").is_visible()
    given = [one for one in served.feedback.entries() if one not in before]
    assert [json.loads(one.content)["better"] for one in given] == [
        "left",
        "neither",
        "right",
        "tie",
    ]
    assert len({one.visit for one in given}) == 1
    phone.evaluate("localStorage.clear()")
    phone.reload()
    waits("4 of 4 to go")
