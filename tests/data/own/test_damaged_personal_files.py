"""What is told of own files that are damaged, unreadable, huge or wrong."""

from __future__ import annotations

import contextlib
import gzip
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from chatllama_pipeline.data.own.personal import personal_fingerprint
from chatllama_pipeline.settings import AssistantSettings
from tests.data.own_files import (
    ACTOR,
    REWARD,
    RLHF,
    SINGING,
    build,
    errors_of,
    jsonl,
    paths,
    put,
    put_csv,
    put_parquet,
    user,
)


def cut_short(folder: Path) -> None:
    whole = gzip.compress(jsonl([{"user_input": f"Sing {n}!"} for n in range(5000)]))
    (folder / f"{RLHF}.jsonl.gz").write_bytes(whole[: len(whole) // 2])


def not_utf8_in_parquet(folder: Path) -> None:
    offsets = pa.array([0, 4, 8], pa.int32()).buffers()[1]
    texts = pa.StringArray.from_buffers(2, offsets, pa.py_buffer(b"Singcaf\xe9"))
    pq.write_table(pa.table({"user_input": texts}), folder / f"{RLHF}.parquet")


def content(ending: str, raw: bytes, stem: str = RLHF) -> Callable[[Path], Any]:
    return lambda folder: put(folder, stem + ending, raw)


def columns(stem: str, **values: Any) -> Callable[[Path], Any]:
    return lambda folder: put_parquet(folder, f"{stem}.parquet", values)


def turns(*roles: str) -> Callable[[Path], Any]:
    messages = [{"role": role, "content": "La"} for role in roles]
    return content(".jsonl", jsonl([{"messages": messages}]), ACTOR)


PAIR = {"prompt": "Sing!", "chosen": "La", "rejected": "No"}


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (cut_short, f"{RLHF}.jsonl.gz: is no gzip file, or one that was cut short"),
        (
            lambda folder: (folder / f"{RLHF}.json.gz").write_bytes(b"[]"),
            f"{RLHF}.json.gz: is no gzip file",
        ),
        (
            content(".csv", b"user_input,reply\nSing!,La\n", ACTOR),
            f"{ACTOR}.csv, row 1: the field completion is missing; those there are: reply, "
            "user_input; add it, or say in config.yaml which field is which:\n      data:\n"
            "        columns: {actor: {prompt: user_input, completion: reply}}",
        ),
        (
            content(".csv", b"user_input,completion\nSing!,La\nSing, please!,La\n", ACTOR),
            f"{ACTOR}.csv, row 2: has 3 values, and the header names 2 columns; put texts",
        ),
        (
            content(".csv", b'user_input\nSing!\n"Hum!\n'),
            f"{RLHF}.csv, line 3: unexpected end of data; put texts in double quotes",
        ),
        (
            content(".csv", b"user_input,completion,score\nSing!,La,good\n", REWARD),
            f"{REWARD}.csv, row 1, field score: 'good' is no score; write a number from 0 to 5",
        ),
        (
            content(".csv", b"user_input\nSing!\ncaf\xe9\n"),
            f"{RLHF}.csv, row 2, field user_input: byte 0xE9 at position 3 is not UTF-8",
        ),
        (
            content(".csv", b"user_input,completion\nSing!,\n", ACTOR),
            f"{ACTOR}.csv, row 1, field completion: is empty; write a text",
        ),
        (
            columns(RLHF, prompts=["Sing!"]),
            f"{RLHF}.parquet, row 1: is of no format that is read; its fields are prompts; say in "
            "config.yaml which field is which:\n      data:\n"
            "        columns: {rlhf: {prompt: prompts}}",
        ),
        (
            columns(RLHF, user_input=[3, 4, 5]),
            f"{RLHF}.parquet, row 1, field user_input: 3 is a number and no text; write the column "
            "as texts (and 2 more such rows)",
        ),
        (
            columns(REWARD, user_input=["a"], completion=["b"], score=["3"]),
            f"{REWARD}.parquet, row 1, field score: '3' is no score; write a number from 0 to 5",
        ),
        (
            columns(ACTOR, messages=["Sing!"]),
            "row 1, field messages: 'Sing!' is no list of turns; write [{",
        ),
        (
            columns(RLHF, user_input=["Sing!", None]),
            f"{RLHF}.parquet, row 2, field user_input: is null; write a text",
        ),
        (
            not_utf8_in_parquet,
            f"{RLHF}.parquet, row 2, field user_input: byte 3 is not UTF-8",
        ),
        (content(".parquet", b"PAR1 and no more"), f"{RLHF}.parquet: is no Parquet file, or a"),
        (
            content(".jsonl", b'{"user_input": "Sing!"}\n{"user_input": "caf\xe9"}\n'),
            f"{RLHF}.jsonl, row 2: byte 19 of the line is not UTF-8",
        ),
        (
            content(".jsonl", b'{"user_input": "Sing!"}\n\n{"user_input": None}\n'),
            f"{RLHF}.jsonl, row 3: no JSON at column 16; None is Python's word: write null",
        ),
        (content(".jsonl", b'[{"user_input": "Sing!"}]'), f"{RLHF}.jsonl: is a list in JSON; name"),
        (
            content(".json", b'{"user_input": "a"}\n{"user_input": "b"}'),
            "where every line is a row of its own, name the file .jsonl",
        ),
        (
            content(".jsonl", jsonl([{"user_input": "Sing!"}, {"user_input": 3}])),
            f"{RLHF}.jsonl, row 2, field user_input: 3 is a number and no text",
        ),
        (
            content(".jsonl", jsonl([{"user_input": "\u3000 \n"}])),
            "row 1, field user_input: is empty",
        ),
        (
            content(".jsonl", b'{"user_input": "Si\\u0000ng!"}'),
            "row 1, field user_input: holds a NUL character at position 2; remove it",
        ),
        (
            content(".jsonl", b'{"user_input": "Si\\ud83d"}'),
            "row 1, field user_input: U+D83D at position 2 is not UTF-8",
        ),
        (content(".jsonl", b"[" * 100_000), f"{RLHF}.jsonl: is a list in JSON"),
        (content(".jsonl", b'{"a":' * 100_000), f"{RLHF}.jsonl, row 1: is nested too deeply"),
        (turns("user", "assistant", "user"), "field messages: ends on a turn of the user, which"),
        (turns("human", "gpt"), "turn 1: the role 'human' is unknown; write user"),
        (turns("user", "tool"), "turn 2: the role 'tool' is unknown; write system, user or"),
        (turns("assistant"), "turn 1: the role assistant cannot stand here; write system or user"),
        (turns("user", "user"), "turn 2: the role user cannot stand here; write assistant, join"),
        (turns("user", "system"), "turn 2: the role system cannot stand here"),
        (
            content(".jsonl", jsonl([{"messages": [{"from": "human", "text": "Hi"}]}]), ACTOR),
            "has not both role and content; add them",
        ),
        (
            content(".jsonl", jsonl([{"messages": SINGING}])),
            f"{RLHF}.jsonl, row 1, field messages: ends on a turn of the assistant; end it on the",
        ),
        (content(".jsonl", jsonl([PAIR]), ACTOR), "row 1: is a pair; pairs belong into reward_con"),
        (
            content(".jsonl", jsonl([{**PAIR, "rejected": SINGING}]), REWARD),
            "field rejected: does not begin with the row's prompt; correct it",
        ),
        (
            content(".jsonl", jsonl([{"prompt": "Sing!", "chosen": "La"}]), REWARD),
            f"{REWARD}.jsonl, row 1: the field rejected is missing; those there are: chosen, "
            "prompt; add it",
        ),
    ],
)
def test_what_is_wrong_with_a_file_is_told_with_its_place_and_cure(
    folder: Path, make: Callable[[Path], Any], told: str
) -> None:
    make(folder)
    assert told in errors_of(folder)


@pytest.mark.parametrize(
    ("path", "told"),
    [
        ("own/*.jsonl", "own/*.jsonl: matches no file in poet/; correct trainer_config.examples_p"),
        ("own/rows.txt", "own/rows.txt: its ending tells of no format that is read; write"),
        ("own", "own: this folder holds no file that ends in .json, "),
        ("own/**x/*.jsonl", "own/**x/*.jsonl: "),
        ("none.jsonl", "none.jsonl: there is no such file in poet/"),
    ],
)
def test_a_path_that_leads_to_nothing_is_told_with_its_setting(
    folder: Path, path: str, told: str
) -> None:
    put(folder, "own/rows.txt", b"Sing!")
    assert told in errors_of(folder, paths(rlhf=path))


def test_a_link_out_of_the_folder_is_refused_and_a_path_out_of_it_is_read(folder: Path) -> None:
    outside = put(folder.parent, "elsewhere/rows.jsonl", jsonl([{"user_input": "Sing!"}]))
    link = folder / f"{RLHF}.jsonl"
    link.symlink_to(outside)
    told = errors_of(folder)
    assert f"{RLHF}.jsonl: is a link out of the assistant's folder, to {outside}" in told
    link.unlink()
    for spelled in (str(outside), "../elsewhere/*.jsonl"):
        tables, _ = build(folder, paths(rlhf=spelled))
        assert len(tables["rlhf"]) == 1
        assert len(personal_fingerprint(folder, paths(rlhf=spelled))) == 1


def test_links_that_turn_in_a_circle_end(folder: Path) -> None:
    put(folder, "datasets/own/rows.jsonl", jsonl([{"user_input": "Sing!"}]))
    for name in ("a", "b"):
        (folder / "datasets" / "own" / name).symlink_to(folder / "datasets")
    tables, _ = build(folder, paths(rlhf="datasets/**/*.jsonl"))
    assert len(tables["rlhf"]) == 1
    itself = folder / "datasets" / "itself.jsonl"
    itself.symlink_to(itself)
    assert "datasets/itself.jsonl: is a link to nothing, or to itself" in errors_of(
        folder, paths(rlhf="datasets/itself.jsonl")
    )


@contextlib.contextmanager
def somebody() -> Iterator[None]:
    """As a user without special rights, also where the tests are run by root."""
    before = os.geteuid()
    if before == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(before)


def test_a_file_that_may_not_be_read_is_told() -> None:
    with somebody(), tempfile.TemporaryDirectory() as root:
        folder = Path(root) / "poet"
        file = put(folder, f"{RLHF}.jsonl", jsonl([{"user_input": "Sing!"}]))
        file.chmod(0)
        assert personal_fingerprint(folder, AssistantSettings())
        told = errors_of(folder)
    assert f"{RLHF}.jsonl: cannot be read (Permission denied); give yourself the right" in told


def test_a_folder_that_may_not_be_read_is_told() -> None:
    with somebody(), tempfile.TemporaryDirectory() as root:
        folder = Path(root) / "poet"
        put(folder, f"{RLHF}.jsonl", jsonl([{"user_input": "Sing!"}]))
        (folder / "datasets").chmod(0)
        told = errors_of(folder)
        (folder / "datasets").chmod(0o700)
    assert "datasets cannot be read: Permission denied; correct its rights" in told


@pytest.mark.parametrize("ending", [".jsonl", ".csv", ".parquet"])
def test_a_row_of_five_megabytes_is_kept_and_its_error_is_short(folder: Path, ending: str) -> None:
    huge = "🐈 miaow " * 460_000
    names = ["user_input", "completion"]
    if ending == ".jsonl":
        put(folder, ACTOR + ending, jsonl([{"user_input": huge, "completion": "La"}]))
    elif ending == ".csv":
        put_csv(folder, ACTOR + ending, names, [[huge, "La"]])
    else:
        put_parquet(folder, ACTOR + ending, {"user_input": [huge], "completion": ["La"]})
    tables, _ = build(folder)
    assert tables["actor"][0]["prompt"] == user(huge)
    put(folder, f"{RLHF}.jsonl", jsonl([{"prompt": [huge]}, huge, {"user_input": f"\0{huge}"}]))
    assert len(errors_of(folder)) < 1000


def test_memory_does_not_grow_with_the_file(folder: Path) -> None:
    """40 MB of rows in at most 60 MB more than 4 MB of them; held back whole, they took 115 MB."""
    row = json.dumps({"user_input": "Sing! " * 100, "completion": "La la " * 100}) + "\n"
    for name, rows in (("small", 3_000), ("large", 30_000)):
        put(folder.parent / name, f"{ACTOR}.jsonl", row.encode() * rows)
    program = (
        "import resource, sys; from pathlib import Path\n"
        "from chatllama_pipeline.data.own.personal import build_personal_data as build\n"
        "from chatllama_pipeline.settings import AssistantSettings\n"
        "for name in ('small', 'large'):\n"
        "    output = Path(sys.argv[1]) / f'{name}_version'; output.mkdir()\n"
        "    build(output.with_name(name), AssistantSettings(), output)\n"
        "    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)"
    )
    arguments = [sys.executable, "-c", program, str(folder.parent)]
    run = subprocess.run(arguments, capture_output=True, text=True, check=True)
    small, large = map(int, run.stdout.split())
    assert large - small < 60


def test_errors_of_all_files_are_told_at_once(folder: Path) -> None:
    put(folder, f"{ACTOR}.csv", b"user_input\nSing!\n")
    put(folder, f"{RLHF}.jsonl", jsonl([{"user_input": ""}] * 1000))
    lines = errors_of(folder).splitlines()
    assert lines[1] == (
        f"  {ACTOR}.csv, row 1: the field completion is missing; those there are: user_input; "
        "add it"
    )
    assert lines[-1] == "  and 981 more"
    assert len(lines) == 1 + 20 + 1


@pytest.mark.parametrize("value", [3, "", [], ["a", ""], {"a": "b"}])
def test_a_path_in_config_is_a_text_or_a_list_of_them(value: Any) -> None:
    with pytest.raises(ValueError, match=r"is no path; write a file, a folder, a glob, or a list"):
        paths(actor=value)
