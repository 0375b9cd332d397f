"""What else than versions and settings counts for an asset: files, judges, a person's word."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from chatllama_pipeline.lineage.declaring.asset import Given, Input, keys
from chatllama_pipeline.lineage.declaring.groups import (
    ASKED,
    EVALUATION_JUDGE,
    REWARD_JUDGE,
    TOKENIZER,
)
from chatllama_pipeline.lineage.declaring.incumbent import RELEASE, incumbent
from chatllama_pipeline.settings import RoleSettings
from chatllama_pipeline.settings.training.methods import FROM_ROWS
from chatllama_pipeline.settings.training.rewards import JUDGE

_FILES = (
    *keys("data", "columns.actor columns.reward columns.rlhf"),
    "evaluation.known_answers",
)


def _own_files(given: Given) -> dict[str, str]:
    from chatllama_pipeline.data.own.personal import personal_fingerprint

    return personal_fingerprint(given.assistant.folder, given.assistant.settings)


def _unread_files(given: Given) -> list[str]:
    from chatllama_pipeline.data.own.unread import unread_files

    return unread_files(given.assistant.folder, given.assistant.settings)


def _tokenizer(given: Given) -> str | None:
    from chatllama_pipeline.data.audit.lengths import tokenizer_fingerprint

    return tokenizer_fingerprint(given.assistant.settings)


def _lengths(given: Given) -> dict[str, object]:
    from chatllama_pipeline.data.prepare.lengths import lengths_identity

    return lengths_identity(given.assistant.settings)


def _reward_judge(given: Given) -> dict[str, Any]:
    """The judge by whose word PPO is paid; nothing where it isn't."""
    settings = given.assistant.settings
    if settings.improve_by in FROM_ROWS or JUDGE not in settings.rewards.weights:
        return {}
    return {**_told_of(settings.role("judge")), "samples": settings.llm.judge_samples}


def _watching_judge(given: Given) -> dict[str, Any]:
    """The gate's judge, where it says which policy of a training is published."""
    settings = given.assistant.settings
    return {} if settings.watch_fault() else _told_of(settings.role("evaluation_judge"))


def _told_of(role: RoleSettings) -> dict[str, Any]:
    """All of a judge that can change its word."""
    judge = {key: getattr(role, key) for key in ASKED.split()} | {"omit": list(role.omit)}
    if (folder := Path(role.model)).is_absolute():
        from chatllama_pipeline.store.manifests import hash_file

        files = sorted(file for file in folder.iterdir() if file.is_file())
        judge["model"] = {file.name: hash_file(file) for file in files}
    return {**judge, "rubric": [criterion.model_dump(mode="json") for criterion in role.rubric]}


def _approved(given: Given) -> bool:
    from chatllama_pipeline.store.approvals import is_approved

    evaluation = given.upstream["evaluation"]
    return is_approved(given.store_root, given.assistant.name, evaluation)


def _release_in_use(given: Given) -> str | None:
    from chatllama_pipeline.store.versions import Store

    stage = given.assistant.settings.release.stage
    return incumbent(given.assistant, Store(given.store_root), given.upstream[stage])


OWN_FILES = Input("files", _own_files)
UNREAD = Input("unread", _unread_files, _FILES, always=False)
TOKENIZER_FILES = Input("tokenizer", _tokenizer, TOKENIZER)
LENGTHS = Input("lengths", _lengths, (*TOKENIZER, "actor_config.max_sequence_length"), always=False)
PAYING_JUDGE = Input("reward_judge", _reward_judge, REWARD_JUDGE, always=False)
WATCHING_JUDGE = Input("watching_judge", _watching_judge, EVALUATION_JUDGE, always=False)
APPROVED = Input("approved", _approved)
IN_USE = Input(RELEASE, _release_in_use, always=False)
