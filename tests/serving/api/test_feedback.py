from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from chatllama_pipeline.serving.wanted import Wanted
from chatllama_pipeline.store.feedback import FeedbackLog
from chatllama_pipeline.store.manifests import Version
from chatllama_pipeline.store.versions import Store
from tests.serving.served import NAME, Served, serving

Answer = tuple[int, dict[str, str], Any]
ASKED = [{"role": "user", "content": "alpha"}]
THUMB = {
    "kind": "thumb",
    "prompt": ASKED,
    "reply": {"text": "<script>alert(1)</script>", "version": "gone-long-ago"},
    "good": False,
}
NUMBER, VISIT, OTHER_VISIT = "thumb-00000000001", "visit-0000000000001", "visit-0000000000002"


@pytest.fixture(scope="module")
def rated(
    released: tuple[Store, Version, Version], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Served]:
    log = FeedbackLog(tmp_path_factory.mktemp("feedback"), NAME)
    with serving([Wanted(released[1], 1.0)], feedback=log) as running:
        yield running


def refused(answer: Answer, status: int, told: str) -> None:
    assert answer[0] == status, answer
    assert told in answer[2]["error"]["message"]


def test_a_reply_is_rated_and_the_rating_stands_in_the_log(rated: Served) -> None:
    _, _, reply = rated.chat("alpha")
    shown = {"text": reply["choices"][0]["message"]["content"]}
    shown["version"] = reply["system_fingerprint"]
    status, _, told = rated.ask("/v1/feedback", THUMB | {"reply": shown, "good": True})
    assert (status, told["added"]) == (200, True)
    [entry] = [one for one in rated.feedback.entries() if one.id == told["id"]]
    assert entry.visit == told["visit"]
    assert json.loads(entry.content)["reply"] == {**shown, "sampling": {}}


def test_a_rating_that_is_sent_again_stands_once_and_another_is_refused(rated: Served) -> None:
    sent = THUMB | {"id": NUMBER, "visit": VISIT}
    assert [rated.ask("/v1/feedback", sent)[2]["added"] for _ in range(3)] == [True, False, False]
    for other in ({"good": True}, {"visit": OTHER_VISIT}):
        refused(rated.ask("/v1/feedback", sent | other), 409, "never changed")
    assert len(rated.feedback.entries(VISIT)) == 1


def test_who_gave_ratings_sees_and_takes_back_those_and_no_others(rated: Served) -> None:
    for visit in (VISIT, OTHER_VISIT):
        for number in range(2):
            sent = THUMB | {"id": f"{visit}-{number}", "visit": visit}
            assert rated.ask("/v1/feedback", sent)[0] == 200
    listed = rated.ask(f"/v1/feedback?visit={OTHER_VISIT}")[2]["data"]
    assert [row["id"] for row in listed] == [f"{OTHER_VISIT}-0", f"{OTHER_VISIT}-1"]
    assert listed[0]["reply"]["text"] == THUMB["reply"]["text"]  # type: ignore[index]
    foreign = f"/v1/feedback/{VISIT}-0?visit={OTHER_VISIT}"
    refused(rated.ask(foreign, method="DELETE"), 404, "has no such feedback")
    own = f"/v1/feedback/{OTHER_VISIT}-0?visit={OTHER_VISIT}"
    assert rated.ask(own, method="DELETE")[2]["deleted"] == 1
    assert rated.ask(f"/v1/feedback?visit={OTHER_VISIT}", method="DELETE")[2]["deleted"] == 1
    assert rated.feedback.entries(OTHER_VISIT) == []
    assert len(rated.feedback.entries(VISIT)) >= 2
    for method in ("GET", "DELETE"):
        refused(rated.ask("/v1/feedback", method=method), 400, "visit: must be 16 to 64")


@pytest.mark.parametrize(
    ("body", "status", "told"),
    [
        (THUMB | {"good": 1}, 400, "good: "),
        (THUMB | {"kind": "stars"}, 400, "kind: must be thumb, preference or edit"),
        (THUMB | {"at": "2020-01-01"}, 400, "at: the server says when"),
        (THUMB | {"id": NUMBER}, 400, "visit: an id needs one of yours beside it"),
        (THUMB | {"visit": "me"}, 400, "visit: must be 16 to 64"),
        (THUMB | {"\ud800": 1}, 400, "unicode string"),
        (THUMB | {"reply": {"text": "b", "sampling": {"\ud800": 1}}}, 400, "unicode string"),
        (THUMB | {"reply": {"text": "x" * 300_000}}, 400, "at most 200000 characters"),
        (THUMB | {"reply": {"text": "x" * 1_100_000}}, 413, "longer than the 1000000 bytes"),
    ],
)
def test_what_is_no_rating_is_refused(
    rated: Served, body: dict[str, Any], status: int, told: str
) -> None:
    before = rated.feedback.entries()
    refused(rated.ask("/v1/feedback", body), status, told)
    assert rated.feedback.entries() == before


def test_a_number_beyond_all_numbers_is_refused_and_the_log_stays_readable(rated: Served) -> None:
    text = json.dumps(THUMB | {"reply": {"text": "b", "sampling": {"temperature": 1}}})
    refused(
        rated.ask("/v1/feedback", text.replace(": 1}", ": 1e999}").encode()), 400, "finite number"
    )
    assert rated.feedback.entries(trial="") == rated.feedback.entries()
    twice = text.replace('"good": false', '"good": false, "good": true').encode()
    refused(rated.ask("/v1/feedback", twice), 400, "the key good stands twice")


@pytest.mark.parametrize("nobody", [None, ""])
def test_what_is_sent_is_always_somebody_s(rated: Served, nobody: str | None) -> None:
    told = rated.ask("/v1/feedback", THUMB | {"visit": nobody, "id": nobody})[2]
    assert [one.id for one in rated.feedback.entries(told["visit"])] == [told["id"]]
    assert rated.feedback.entries("") == []
    sent = THUMB | {"visit": nobody, "id": NUMBER}
    refused(rated.ask("/v1/feedback", sent), 400, "visit: an id needs one of yours beside it")


def test_a_rating_that_cannot_be_kept_is_told(served: Served, tmp_path: Path) -> None:
    answer = served.ask("/v1/feedback", THUMB)
    refused(answer, 507, "nothing was kept")
    assert answer[2]["error"]["code"] == "not_stored"
