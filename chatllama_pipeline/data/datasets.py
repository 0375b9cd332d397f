"""The tables that training reads: preference pairs, actor conversations, prompts for PPO.

Every builder reads version folders, drops and counts what must not train anything, splits by the
first user turn, and writes `data.parquet` in the order of the rows' hashes: the order in which
rows came changes nothing.
"""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pyarrow as pa

from chatllama_pipeline.data.checks import (
    few_rows_check,
    leak_check,
    length_only_accuracy,
    not_empty_check,
    schema_check,
    schema_faults,
)
from chatllama_pipeline.data.funnel import Funnel
from chatllama_pipeline.data.grammar import read_question
from chatllama_pipeline.data.patterns import redact_rows
from chatllama_pipeline.data.splits import (
    Row,
    assign_splits,
    content_hash,
    counts,
    drop_near_repeats,
    held_out_keys,
    is_flipped,
    without_duplicates,
)
from chatllama_pipeline.data.tables import read_rows, write_original, write_rows
from chatllama_pipeline.errors import DataError
from chatllama_pipeline.records import (
    ACTOR_SCHEMA,
    PAIR_SCHEMA,
    PREFERENCE_SCHEMA,
    PROMPT_SCHEMA,
    TABLE_FILE,
    Check,
    Outcome,
)
from chatllama_pipeline.settings import AssistantSettings

_PERSONAL_TABLES = ("actor.parquet", "reward.parquet", "rlhf.parquet", "pairs.parquet")


def _source_rows(name: str, sources: dict[str, Path], limit: int | None) -> list[Row]:
    folder = sources.get(name)
    rows = read_rows(folder) if folder and (folder / TABLE_FILE).is_file() else []
    if not rows:
        raise DataError(
            f"data.sources asks for {name}, which holds no rows; materialize {name} with this "
            "assistant, or take it out of data.sources in config.yaml"
        )
    if limit is None or len(rows) <= limit:
        return rows
    return sorted(rows, key=content_hash)[:limit]


def _personal_pairs(personal: Path) -> list[Row]:
    """The user's own pairs, and those that follow from own scores: replies to one prompt, each
    against the next better one."""
    by_prompt: dict[str, list[Row]] = {}
    for row in read_rows(personal, "reward.parquet"):
        if row["score"] is not None:
            by_prompt.setdefault(content_hash(row["prompt"]), []).append(row)
    pairs = read_rows(personal, "pairs.parquet")
    for rows in by_prompt.values():
        ordered = sorted(rows, key=lambda row: (row["score"], row["completion"]))
        pairs += [
            {
                "prompt": worse["prompt"],
                "chosen": better["completion"],
                "rejected": worse["completion"],
                "strength": max(1.0, better["score"] - worse["score"]),
                "source": "personal",
                "domain": "",
            }
            for worse, better in pairwise(ordered)
            if better["score"] > worse["score"]
        ]
    return pairs


def held_out_in(pairs: list[Row], personal: Path, settings: AssistantSettings) -> set[str]:
    """Near-repeat keys of every validation and test prompt of the pairs and the user's files.

    A training row of one table must not repeat a held-out prompt of another.
    """
    own = [row for table in _PERSONAL_TABLES for row in read_rows(personal, table)]
    return held_out_keys([*pairs, *own], settings.data)


def settle(
    rows: list[Row],
    unique_by: tuple[str, ...],
    held_out: set[str],
    settings: AssistantSettings,
    funnel: Funnel,
) -> list[Row]:
    """Rows with splits, without duplicates and near repeats, which `funnel` counts."""
    unique, duplicates = without_duplicates(rows, unique_by)
    kept, near = drop_near_repeats(assign_splits(unique, settings.data), held_out)
    funnel.drop_rows(duplicates, "duplicate")
    funnel.drop_rows(near, "near_repeat")
    return kept


def _flip(pair: Row) -> Row:
    return {**pair, "chosen": pair["rejected"], "rejected": pair["chosen"]}


def build_preference_data(
    sources: dict[str, Path], personal: Path, settings: AssistantSettings, output: Path
) -> Outcome:
    """Write all pairs of the assistant's sources, and of the user's own scores, with their splits.

    `sources` maps names to version folders. Raises DataError for a source without rows.
    """
    data = settings.data
    pairs = _personal_pairs(personal)
    for name in data.sources:
        pairs += _source_rows(name, sources, data.number_of_samples)
    pairs, redacted = redact_rows(pairs, PAIR_SCHEMA, data.redact)
    distinct = [pair for pair in pairs if pair["chosen"].strip() != pair["rejected"].strip()]
    identical = len(pairs) - len(distinct)
    funnel = Funnel()
    funnel.read_rows(pairs)
    funnel.drop_rows(
        (pair for pair in pairs if pair["chosen"].strip() == pair["rejected"].strip()),
        "identical_replies",
    )
    held_out = held_out_in([], personal, settings)
    kept = settle(distinct, ("prompt", "chosen", "rejected"), held_out, settings, funnel)
    flips = [is_flipped(pair, data.label_noise, settings.seed) for pair in kept]
    kept = [_flip(pair) if flipped else pair for pair, flipped in zip(kept, flips, strict=True)]
    write_rows(kept, PREFERENCE_SCHEMA, output)
    funnel.write(output)

    needed = bool(data.sources) or settings.reward_config.objective == "pairwise"
    limits = settings.checks
    share = identical / len(pairs) if pairs else 0.0
    by_length = length_only_accuracy(kept)
    checks = [
        schema_check(schema_faults(kept, PREFERENCE_SCHEMA)),
        not_empty_check(len(kept), "name a source under data.sources in config.yaml", needed),
        Check(
            "identical_pairs",
            share <= limits.max_identical_pairs,
            True,
            share,
            limits.max_identical_pairs,
            f"{identical} of {len(pairs)} pairs had the same text as both replies and were dropped",
        ),
        leak_check(kept),
        Check(
            "length_only_accuracy",
            by_length <= limits.max_length_only_accuracy,
            False,
            by_length,
            limits.max_length_only_accuracy,
            f"the longer reply is the preferred one in {by_length:.0%} of the pairs",
        ),
    ]
    metrics = {
        "rows": counts(kept),
        "dropped": funnel.dropped(),
        "flipped_labels": sum(flips),
        "redacted": dict(redacted),
    }
    return Outcome(rows=len(kept), metrics=metrics, checks=checks)


def _dataset_outcome(
    rows: list[Row],
    schema: pa.Schema,
    funnel: Funnel,
    settings: AssistantSettings,
    cure: str,
) -> Outcome:
    checks = [
        schema_check(schema_faults(rows, schema)),
        not_empty_check(len(rows), cure),
        leak_check(rows),
        few_rows_check(len(rows), settings.checks.few_rows),
    ]
    return Outcome(
        rows=len(rows), metrics={"rows": counts(rows), "dropped": funnel.dropped()}, checks=checks
    )


def build_actor_training_data(
    preference: Path,
    synthetic_conversations: Path,
    personal: Path,
    settings: AssistantSettings,
    output: Path,
) -> Outcome:
    """Write the conversations that the actor imitates, and `actor_training_data.json`.

    From pairs come the chosen replies, or both with `data.actor_replies: both`.
    """
    sides = ("chosen", "rejected") if settings.data.actor_replies == "both" else ("chosen",)
    pairs = read_rows(preference)
    rows = [
        {"prompt": pair["prompt"], "completion": pair[side], "source": pair["source"]}
        for pair in pairs
        for side in sides
    ]
    rows += read_rows(synthetic_conversations) + read_rows(personal, "actor.parquet")
    held_out = held_out_in(pairs, personal, settings)
    funnel = Funnel()
    funnel.read_rows(rows)
    kept = settle(rows, ("prompt", "completion"), held_out, settings, funnel)
    write_rows(kept, ACTOR_SCHEMA, output)
    write_original(kept, ("completion",), output / "actor_training_data.json")
    funnel.write(output)
    cure = (
        "name a source under data.sources, set llm.provider and llm.synthetic_conversations, or "
        f"put rows into {settings.actor_config.train_dataset_path}"
    )
    return _dataset_outcome(kept, ACTOR_SCHEMA, funnel, settings, cure)


def build_rlhf_training_data(
    preference: Path,
    synthetic_prompts: Path,
    personal: Path,
    settings: AssistantSettings,
    output: Path,
) -> Outcome:
    """Write the prompts that PPO answers, and `rlhf_training_data.json`.

    Raises DataError where the judge of their replies could not read a prompt: it would refuse in
    evaluation, hours of training later.
    """
    pairs = read_rows(preference)
    rows = [{"prompt": pair["prompt"], "source": pair["source"]} for pair in pairs]
    rows += read_rows(synthetic_prompts) + read_rows(personal, "rlhf.parquet")
    held_out = held_out_in(pairs, personal, settings)
    funnel = Funnel()
    funnel.read_rows(rows)
    kept = settle(rows, ("prompt",), held_out, settings, funnel)
    if settings.judge == "rules":
        _check_that_rules_can_judge(kept)
    write_rows(kept, PROMPT_SCHEMA, output)
    write_original(kept, (), output / "rlhf_training_data.json")
    funnel.write(output)
    cure = (
        "name a source under data.sources, set llm.provider and llm.synthetic_prompts, or put "
        f"rows into {settings.trainer_config.examples_path}"
    )
    return _dataset_outcome(kept, PROMPT_SCHEMA, funnel, settings, cure)


def _check_that_rules_can_judge(rows: list[Row]) -> None:
    outside = [text for row in rows if read_question(text := row["prompt"][-1]["content"]) is None]
    if outside:
        raise DataError(
            f"{len(outside)} prompts are outside of the grammar, which is all that the judge rules "
            f"knows; the first is {outside[0][:60]!r}. Set evaluation.judge: none in config.yaml "
            "(a person then approves the release), or leave them out"
        )
