"""What an assistant takes of its sources: domains, ratios, pairs per prompt, counts, weights."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from chatllama_pipeline.data.own.personal import TABLES
from chatllama_pipeline.data.prepare.preferences import build_preference_data
from chatllama_pipeline.data.prepare.selection import quotas
from chatllama_pipeline.errors import DataError
from chatllama_pipeline.records import Outcome
from chatllama_pipeline.schemas import PAIR_SCHEMA
from chatllama_pipeline.settings import AssistantSettings
from chatllama_pipeline.settings.data import SourceChoice


def pair(source: str, number: int, **changes: Any) -> dict[str, Any]:
    return {
        "prompt": [{"role": "user", "content": f"{source} question {number}"}],
        "chosen": f"good {source} {number}",
        "rejected": f"bad {source} {number}",
        "strength": 1.0,
        "source": source,
        "domain": "",
        **changes,
    }


SHP = [
    pair("shp", n, domain="askbaking" if n % 2 else "askacademia", strength=1.0 + n % 4)
    for n in range(80)
]
HH = [pair("hh_rlhf", n, domain="harmless-base") for n in range(40)]


def prefer(
    root: Path, sources: Any, take: str = "a", shp: list[dict[str, Any]] = SHP, **data: Any
) -> tuple[list[dict[str, Any]], Outcome]:
    folders = {}
    for name, rows in (("shp", shp), ("hh_rlhf", HH)):
        folders[name] = root / take / name
        folders[name].mkdir(parents=True)
        table = pa.Table.from_pylist(rows, schema=PAIR_SCHEMA)
        pq.write_table(table, folders[name] / "data.parquet")
    personal, output = root / take / "personal", root / take / "out"
    personal.mkdir()
    output.mkdir()
    for name, schema in TABLES.items():
        pq.write_table(schema.empty_table(), personal / f"{name}.parquet")
    seed = data.pop("seed", 0)
    raw = {"seed": seed, "data": {"sources": sources, **data}, "actor_config": {"model": "scratch"}}
    outcome = build_preference_data(
        folders, personal, AssistantSettings.model_validate(raw), output
    )
    return pq.read_table(output / "data.parquet").to_pylist(), outcome


def by_source(rows: list[dict[str, Any]]) -> dict[str, int]:
    return dict(Counter(row["source"] for row in rows))


def test_domains_and_a_least_ratio_filter_a_source_and_are_counted(tmp_path: Path) -> None:
    choice = {"shp": {"domains": ["askbaking"], "min_ratio": 3}}
    rows, outcome = prefer(tmp_path, choice)
    # Odd numbers are askbaking, with ratios 2 and 4 by turns: 20 of 40 are 3 or more.
    assert len(rows) == 20
    assert {(row["domain"], row["strength"]) for row in rows} == {("askbaking", 4.0)}
    assert outcome.metrics["dropped"] == {"domain": 40, "weak_preference": 20}
    funnel = json.loads((tmp_path / "a" / "out" / "funnel.json").read_text())["sources"]
    assert funnel == {
        "shp": {
            "read": 80,
            "valid": 80,
            "kept": 20,
            "dropped": {"domain": 40, "weak_preference": 20},
        }
    }


def test_subsets_are_another_name_for_domains(tmp_path: Path) -> None:
    rows, _ = prefer(tmp_path, [{"ARLHF": {"subsets": ["harmless-base"]}}])
    assert by_source(rows) == {"hh_rlhf": 40}


def test_at_most_k_pairs_of_a_prompt_stay_whatever_their_order(tmp_path: Path) -> None:
    post = [{"role": "user", "content": "the same post"}]
    many = [*SHP, *(pair("shp", 100 + n, prompt=post) for n in range(9))]
    choice = {"shp": {"max_pairs_per_prompt": 4}}
    rows, outcome = prefer(tmp_path, choice, "a", many)
    again, _ = prefer(tmp_path, choice, "b", many[::-1])
    assert rows == again
    assert sum(row["prompt"] == post for row in rows) == 4
    assert outcome.metrics["dropped"] == {"over_per_prompt": 5}


def test_counts_weights_and_number_of_samples_bound_each_source(tmp_path: Path) -> None:
    rows, outcome = prefer(tmp_path, {"shp": {"count": 7}, "hh_rlhf": {}}, "a", number_of_samples=9)
    assert by_source(rows) == {"shp": 7, "hh_rlhf": 9}
    assert outcome.metrics["dropped"] == {"not_sampled": 73 + 31}
    # 40 of hh_rlhf at weight 1 allow 40 / 1 * 1.5 = 60 of shp.
    rows, _ = prefer(tmp_path, {"shp": {"weight": 1.5}, "hh_rlhf": {"weight": 1}}, "b")
    assert by_source(rows) == {"shp": 60, "hh_rlhf": 40}


@pytest.mark.parametrize(
    ("choices", "samples", "expected"),
    [
        ({"a": {}, "b": {}}, None, {"a": 100, "b": 10}),
        ({"a": {}, "b": {}}, 20, {"a": 20, "b": 10}),
        # b's 10 at weight 2 allow 5 at weight 1.
        ({"a": {"weight": 1}, "b": {"weight": 2}}, None, {"a": 5, "b": 10}),
        ({"a": {"weight": 9}, "b": {}}, 45, {"a": 45, "b": 5}),
        ({"a": {"weight": 1, "count": 3}, "b": {"weight": 2}}, None, {"a": 3, "b": 6}),
        ({"a": {"weight": 0.1}, "b": {"weight": 0.3}}, None, {"a": 3, "b": 10}),
    ],
)
def test_quotas(choices: Any, samples: int | None, expected: dict[str, int]) -> None:
    validated = {name: SourceChoice(**choice) for name, choice in choices.items()}
    assert quotas({"a": 100, "b": 10}, validated, samples) == expected


def test_the_seed_chooses_and_fewer_samples_are_among_more(tmp_path: Path) -> None:
    rows = {
        (seed, count): {
            row["chosen"]
            for row in prefer(
                tmp_path, ["shp"], f"{seed}-{count}", seed=seed, number_of_samples=count
            )[0]
        }
        for seed in (0, 1)
        for count in (10, 20)
    }
    assert rows[0, 10] < rows[0, 20]
    assert rows[0, 20] != rows[1, 20]


def test_a_source_of_which_nothing_is_left_says_which_filter_took_how_many(tmp_path: Path) -> None:
    with pytest.raises(DataError) as failure:
        prefer(tmp_path, {"shp": {"domains": ["askbaking"], "min_ratio": 9}, "hh_rlhf": {}})
    assert str(failure.value) == (
        "data.sources.shp: of its 80 pairs none is left (domain 40, weak_preference 40); widen the "
        "choices there, or take it out of data.sources in config.yaml"
    )


@pytest.mark.parametrize(
    ("limits", "cure"),
    [
        ({"max_length": 10}, "raise data.max_length (10), or"),
        ({"max_reply_length": 2}, "raise data.max_reply_length (2), or"),
        ({"max_length": 10, "max_reply_length": 2}, "(10) or data.max_reply_length (2), or take"),
    ],
)
def test_a_source_that_is_too_long_says_which_limit_to_raise(
    tmp_path: Path, limits: dict[str, int], cure: str
) -> None:
    with pytest.raises(DataError, match=re.escape(cure)):
        prefer(tmp_path, {"shp": {}}, **limits)


def test_one_identical_pair_is_dropped_and_thirty_of_a_hundred_stop(tmp_path: Path) -> None:
    same = [pair("shp", 200 + n, chosen="Alike.", rejected=" Alike. ") for n in range(35)]
    rows, outcome = prefer(tmp_path, ["shp"], "a", [*SHP, same[0]])
    (check,) = (check for check in outcome.checks if check.name == "identical_pairs")
    assert (len(rows), check.passed, check.blocking, round(check.value, 4)) == (
        80,
        True,
        True,
        0.0123,  # 1 / 81
    )
    _, outcome = prefer(tmp_path, ["shp"], "b", [*SHP, *same])
    (check,) = (check for check in outcome.checks if check.name == "identical_pairs")
    assert (check.passed, round(check.value, 3)) == (False, 0.304)  # 35 / 115


def test_identical_pairs_that_the_source_dropped_already_stop_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from chatllama_pipeline.data.sources.catalog import build_source

    row = {"history": "h", "human_ref_A": "a", "human_ref_B": "b", "labels": 1}
    rows = [
        {**row, "history": f"post {n}", "human_ref_B": "a" if n < 3 else "b"} for n in range(10)
    ]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    monkeypatch.setenv("CHATLLAMA_SHP", str(tmp_path / "rows.jsonl"))
    source, personal, output = (tmp_path / name for name in ("shp", "personal", "out"))
    for folder in (source, personal, output):
        folder.mkdir()
    for name, schema in TABLES.items():
        pq.write_table(schema.empty_table(), personal / f"{name}.parquet")
    build_source("shp", source)
    settings = AssistantSettings.model_validate(
        {"data": {"sources": ["shp"]}, "actor_config": {"model": "scratch"}}
    )
    outcome = build_preference_data({"shp": source}, personal, settings, output)
    (check,) = (check for check in outcome.checks if check.name == "identical_pairs")
    assert (check.passed, check.value) == (False, 0.3)


@pytest.mark.slow
def test_one_identical_pair_among_385_thousand_is_dropped_and_stops_nothing(
    tmp_path: Path,
) -> None:
    rows = [pair("shp", number) for number in range(385_000)]
    rows[7]["rejected"] = rows[7]["chosen"]
    kept, outcome = prefer(tmp_path, ["shp"], shp=rows)
    assert outcome.metrics["dropped"]["identical_replies"] == 1
    (check,) = (check for check in outcome.checks if check.name == "identical_pairs")
    assert check.passed
    assert len(kept) == 385_000 - sum(outcome.metrics["dropped"].values())
