from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from chatllama_pipeline.data.feedback.importing import as_row, read_feedback
from chatllama_pipeline.errors import DataError

ASKED = [{"role": "user", "content": "alpha"}]
REPLY = {"text": "bravo", "version": "v1", "sampling": {"temperature": 0.7}}
OTHER = {"text": "charlie", "version": "v2"}
THUMB = {"kind": "thumb", "prompt": ASKED, "reply": REPLY, "good": True, "reason": "kind"}
PREFERENCE = {
    "kind": "preference",
    "prompt": ASKED,
    "left": REPLY,
    "right": OTHER,
    "better": "right",
}
EDIT = {"kind": "edit", "prompt": ASKED, "reply": REPLY, "edited": "delta <script>x</script>"}


def message(number: str, parent: str | None, role: str, content: str, **more: Any) -> Any:
    return {"id": number, "parentId": parent, "role": role, "content": content, **more}


def exported(rating: Any, model: str = "tea@v1", **more: Any) -> dict[str, Any]:
    """An entry as Open WebUI 0.12 exports it: a thumb on the first of two models' replies."""
    messages = [
        message("m1", None, "user", "alpha", childrenIds=["m2"]),
        message("m2", "m1", "assistant", "bravo", model="tea@v1"),
        message("m3", "m2", "user", "charlie"),
        message(
            "m4",
            "m3",
            "assistant",
            '<details type="reasoning" done="true">\nhm\n</details>\ndelta',
            model=model,
        ),
        message("m5", "m3", "assistant", "echo", model="tea@v2"),
    ]
    chat = {"title": "t", "history": {"messages": {one["id"]: one for one in messages}}}
    return {
        "id": "0b0e2f52-7c0c-4f9c-8a39-0f2c0c7c7a11",
        "user_id": "u",
        "version": 0,
        "type": "rating",
        "data": {
            "rating": rating,
            "model_id": model,
            "sibling_model_ids": ["tea@v2"],
            "reason": None,
            "comment": "clear",
        },
        "meta": {"arena": False, "message_id": "m4", "chat_id": "c", "message_index": 4},
        "snapshot": {"chat": {"id": "c", "chat": chat}},
        "created_at": 1764000000,
        "updated_at": 1764000000,
        **more,
    }


def written(folder: Path, rows: list[Any], name: str = "feedback.jsonl") -> Path:
    file = folder / name
    lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    file.write_text("\n".join(lines) if name.endswith("l") else json.dumps(rows))
    return file


def test_own_rows_come_back_as_they_were_written(tmp_path: Path) -> None:
    visit = "0123456789abcdef"
    rows = [THUMB, PREFERENCE | {"visit": visit}, EDIT | {"id": "edit-of-a-reply-1", "at": "now"}]
    found = read_feedback(written(tmp_path, rows), "tea")
    assert [json.loads(entry.content)["kind"] for entry in found.entries] == [
        row["kind"] for row in rows
    ]
    assert [entry.visit for entry in found.entries] == ["", visit, ""]
    assert (found.entries[2].id, found.entries[2].at) == ("edit-of-a-reply-1", "now")
    again = written(tmp_path, [as_row(entry) for entry in found.entries], "again.jsonl")
    assert read_feedback(again, "tea") == found


def test_a_row_without_an_id_has_the_same_one_whenever_it_is_read(tmp_path: Path) -> None:
    file = written(tmp_path, [THUMB, PREFERENCE])
    first, again = (read_feedback(file, "tea").entries for _ in range(2))
    assert [one.id for one in first] == [one.id for one in again]
    assert first[0].id != first[1].id


@pytest.mark.parametrize(("rating", "better"), [(1, "left"), (-1, "right"), ("1", "left")])
def test_open_webui_s_thumb_is_one_and_its_siblings_make_comparisons(
    tmp_path: Path, rating: Any, better: str
) -> None:
    found = read_feedback(written(tmp_path, [exported(rating)], "export.json"), "tea")
    thumb, preference = (json.loads(entry.content) for entry in found.entries)
    assert thumb["good"] is (better == "left")
    assert found.entries[0].at == "2025-11-24T16:00:00.000+00:00"
    assert thumb["reply"] == {"text": "delta", "version": "v1", "sampling": {}}
    assert thumb["reason"] == "clear"
    assert [turn["content"] for turn in thumb["prompt"]] == ["alpha", "bravo", "charlie"]
    assert preference["left"] == thumb["reply"]
    assert preference["right"] == {"text": "echo", "version": "v2", "sampling": {}}
    assert preference["better"] == better
    assert len({entry.id for entry in found.entries}) == 2


def test_other_models_and_entries_without_a_chat_are_counted(tmp_path: Path) -> None:
    rows = [
        exported(1, model="gpt-4"),
        exported(1, snapshot=None),
        exported(None),
        exported(1, model="my-tea"),
    ]
    found = read_feedback(written(tmp_path, rows, "export.json"), "tea")
    assert (len(found.entries), found.others, found.empty) == (0, 2, 2)
    found = read_feedback(tmp_path / "export.json", "tea", ["my-tea"])
    assert (len(found.entries), found.others) == (2, 1)
    assert json.loads(found.entries[0].content)["reply"]["version"] == ""


@pytest.mark.parametrize(
    ("row", "told"),
    [
        ("{broken", "line 2: is no JSON"),
        ('{"a":' * 5000, "line 2: is no JSON: is nested too deeply"),
        ('{"kind": "thumb", "good": true, "good": false}', "the key good stands twice"),
        ([1], "line 2: must be a JSON object"),
        ({"kind": "star"}, "kind: must be thumb, preference or edit"),
        (THUMB | {"good": "yes"}, "good: input should be a valid boolean"),
        (THUMB | {"prompt": []}, "prompt: list should have at least 1 item"),
        (THUMB | {"prompt": [*ASKED, {"role": "assistant", "content": "b"}]}, "must be the user's"),
        (THUMB | {"prompt": [{"role": "wizard", "content": "b"}]}, "prompt.0.role: "),
        (THUMB | {"stars": 5}, "stars: extra inputs are not permitted"),
        (THUMB | {"reply": {"text": ""}}, "reply.text: string should have at least 1 character"),
        (THUMB | {"reply": {"text": "x" * 10**6}}, "at most 200000 characters"),
        (PREFERENCE | {"right": REPLY}, "both replies are the same text; say tie"),
        (PREFERENCE | {"better": "both"}, "better: "),
        (EDIT | {"edited": "bravo"}, "it is the reply unchanged"),
        (THUMB | {"id": "1"}, "id: must be 16 to 64 letters"),
        (THUMB | {"visit": "../../x"}, "visit: must be 16 to 64 letters"),
        (THUMB | {"visit": 0}, "visit: must be 16 to 64 letters"),
        (THUMB | {"reply": {"text": "b", "sampling": {"top_p": float("nan")}}}, "finite number"),
        (THUMB | {"reply": {"text": "b", "sampling": {"\ud800": 1}}}, "as a unicode string"),
        (THUMB | {"reason": "\ud800"}, "unable to parse raw data as a unicode string"),
        (exported(3), "data.rating: 3 is neither 1 nor -1"),
        (exported(1, snapshot={"chat": {"chat": {"history": {"messages": [1]}}}}), "by their ids"),
        (exported(1, id=None), "id: is missing"),
        (exported(1, meta=["m4"]), "meta: must be an object"),
        (exported(1, data=["x"]), "data: must be an object"),
        (exported(1, created_at="soon"), "created_at: 'soon' are no seconds since 1970"),
        (exported(1, created_at=True), "created_at: True are no seconds since 1970"),
        (exported(True), "data.rating: True is neither 1 nor -1"),
        (
            {"id": "c", "title": "t", "chat": {"history": {}}},
            "is a chat, in which no rating stands",
        ),
        ({"feedbacks": [THUMB]}, "is no rating: write the list that stands in feedbacks alone"),
    ],
)
def test_a_broken_row_is_named_and_nothing_of_its_file_is_taken(
    tmp_path: Path, row: Any, told: str
) -> None:
    file = written(tmp_path, [THUMB, row])
    with pytest.raises(DataError, match="nothing was imported") as caught:
        read_feedback(file, "tea")
    assert f"{file}: line 2: " in str(caught.value)
    assert told in str(caught.value)


def test_a_text_may_hold_other_ends_of_lines(tmp_path: Path) -> None:
    text = "a\u2028b\x85c\x0bd"
    row = json.dumps(THUMB | {"reply": {"text": text}}, ensure_ascii=False)
    file = tmp_path / "rows.jsonl"
    file.write_bytes(f"\ufeff{row}\r\n\r\n{json.dumps(EDIT)}\r\n".encode())
    first, second = (json.loads(one.content) for one in read_feedback(file, "tea").entries)
    assert first["reply"]["text"] == text
    assert second["kind"] == "edit"


def test_whatever_an_export_calls_its_rows_they_are_imported_again_once(tmp_path: Path) -> None:
    rows = [exported(1, id="1"), exported(-1, id="\u00e9/2")]
    for each in rows:
        del each["snapshot"]["chat"]["chat"]["history"]["messages"]["m5"]["id"]
    found = read_feedback(written(tmp_path, rows, "export.json"), "tea")
    assert len({entry.id for entry in found.entries}) == 4
    again = written(tmp_path, [as_row(entry) for entry in found.entries], "again.jsonl")
    assert read_feedback(again, "tea") == found


def test_a_turn_that_is_a_thought_alone_is_none_that_can_be_read(tmp_path: Path) -> None:
    thought = '<details type="reasoning" done="true">\nhm\n</details>\n'
    row = exported(1)
    row["snapshot"]["chat"]["chat"]["history"]["messages"]["m2"]["content"] = thought
    found = read_feedback(written(tmp_path, [row], "export.json"), "tea")
    assert (found.entries, found.empty) == ([], 1)


@pytest.mark.parametrize(
    "changed",
    [
        {"m1": {"parentId": "m3"}},  # in a circle
        {"m3": {"parentId": "m0"}},  # what led to it is gone
        {"m4": {"content": '<details type="reasoning">\nhm, never'}},
    ],
)
def test_a_chat_that_can_not_be_read_to_its_beginning_is_counted(
    tmp_path: Path, changed: dict[str, Any]
) -> None:
    row = exported(1)
    for name, more in changed.items():
        row["snapshot"]["chat"]["chat"]["history"]["messages"][name] |= more
    found = read_feedback(written(tmp_path, [row, exported(-1.0)], "export.json"), "tea")
    assert (len(found.entries), found.empty) == (2, 1)
    # What was said in the place of a text is no reason.
    assert json.loads(found.entries[0].content)["good"] is False


def test_a_long_chat_is_counted_and_keeps_no_other_row_out(tmp_path: Path) -> None:
    row = exported(1)
    messages = row["snapshot"]["chat"]["chat"]["history"]["messages"]
    for number in range(202):
        role = ("user", "assistant")[number % 2]
        messages[f"n{number}"] = message(f"n{number}", f"n{number - 1}", role, "hm")
    messages["n0"]["parentId"] = None
    messages["m1"]["parentId"] = "n201"
    found = read_feedback(written(tmp_path, [row, exported(1)], "export.json"), "tea")
    assert (len(found.entries), found.empty) == (2, 1)


def test_a_file_may_be_one_row_set_out_and_of_utf_16(tmp_path: Path) -> None:
    file = tmp_path / "row.json"
    file.write_text(json.dumps(THUMB, indent=2), encoding="utf-16")
    [entry] = read_feedback(file, "tea").entries
    assert json.loads(entry.content)["reason"] == "kind"


def test_many_broken_rows_are_counted(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"and 5 more$"):
        read_feedback(written(tmp_path, ["{"] * 25), "tea")
    with pytest.raises(DataError, match=r"none\.json: can't be read"):
        read_feedback(tmp_path / "none.json", "tea")
