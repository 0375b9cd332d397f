"""What each asset is made from: upstream assets, settings, code; and so its fingerprint."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from chatllama_pipeline.data.audit.lengths import tokenizer_fingerprint
from chatllama_pipeline.data.own.personal import personal_fingerprint
from chatllama_pipeline.data.own.unread import unread_files
from chatllama_pipeline.data.prepare.lengths import lengths_identity
from chatllama_pipeline.data.sources.catalog import SOURCES, source_inputs
from chatllama_pipeline.data.sources.places import Asked
from chatllama_pipeline.errors import AbsentError, SettingsError
from chatllama_pipeline.settings import SCRATCH, AssistantSettings
from chatllama_pipeline.settings.folder import Assistant
from chatllama_pipeline.store.approvals import is_approved
from chatllama_pipeline.store.manifests import Recipe, Version, hash_files
from chatllama_pipeline.store.versions import Store

# The version of a source that nobody ever needed.
ABSENT = "absent"

# Raised by hand whenever an asset's code gives another result for the same inputs.
CODE_VERSION: dict[str, str] = {
    "shp": "3",
    "hh_rlhf": "3",
    "grammar": "3",
    "personal_data": "3",
    "preference_data": "5",
    "synthetic_conversations": "2",
    "synthetic_prompts": "2",
    "synthetic_completions": "2",
    "actor_training_data": "5",
    "rlhf_training_data": "5",
    "reward_training_data": "6",
    "data_audit": "3",
    "actor_base": "4",
    "reward_base": "4",
    "reward_model": "5",
    "actor_sft": "4",
    "actor_ppo": "6",
    "evaluation": "8",
    "release": "4",
}

UPSTREAM: dict[str, tuple[str, ...]] = {
    "shp": (),
    "hh_rlhf": (),
    "grammar": (),
    "personal_data": (),
    "preference_data": ("shp", "hh_rlhf", "grammar", "personal_data"),
    "synthetic_conversations": ("personal_data",),
    "synthetic_prompts": ("personal_data",),
    "synthetic_completions": ("personal_data",),
    "actor_training_data": ("preference_data", "synthetic_conversations", "personal_data"),
    "rlhf_training_data": ("preference_data", "synthetic_prompts", "personal_data"),
    "reward_training_data": ("preference_data", "synthetic_completions", "personal_data"),
    "data_audit": (
        "shp",
        "hh_rlhf",
        "grammar",
        "preference_data",
        "actor_training_data",
        "rlhf_training_data",
        "reward_training_data",
    ),
    "actor_base": ("actor_training_data",),
    "reward_base": ("actor_training_data",),
    "reward_model": ("reward_base", "reward_training_data", "preference_data"),
    "actor_sft": ("actor_base", "actor_training_data"),
    "actor_ppo": ("actor_sft", "reward_model", "rlhf_training_data"),
    "evaluation": (
        "actor_sft",
        "actor_ppo",
        "reward_model",
        "rlhf_training_data",
        "preference_data",
        "personal_data",
        "actor_base",
    ),
    "release": ("evaluation", "actor_sft", "actor_ppo"),
}


def _keys(section: str, names: str) -> tuple[str, ...]:
    return tuple(f"{section}.{name}" for name in names.split())


_SCRATCH = (
    "model gguf_file tokenizer_path trust_remote_code template_options scratch_family "
    "scratch_hidden_size scratch_layers scratch_heads scratch_vocabulary"
)
_ADAPTER = (
    "peft_enable lora.r lora.lora_alpha lora.lora_dropout lora.target_modules lora.use_rslora"
)
_OPTIMIZER = (
    "batch_size lr warmup_ratio weight_decay max_grad_norm epochs max_steps evaluations precision "
    "early_stopping keep_weights attention compile length_bucketing " + _ADAPTER
)
_SPLIT = _keys("data", "validation_share test_share max_length max_reply_length")
_TELL_OF_UNREAD = ("personal_data", "data_audit")
_DATASETS = ("preference_data", "actor_training_data", "rlhf_training_data", "reward_training_data")
# Of who answers, all that can change an answer; speed, money and keys cannot.
_ASKED = "provider model base_url style temperature max_tokens omit extra_body"
# A writer's later questions follow from its earlier answers: in batches all is asked at once.
_WRITER = (*_keys("llm", _ASKED + " batch"), *_keys("llm.writer", _ASKED + " batch"))
_JUDGE = ("rubric", *_keys("llm", _ASKED), *_keys("llm.judge", _ASKED))
_EVALUATION_JUDGE = (*_JUDGE, *_keys("evaluation.judge", _ASKED))

MADE_FROM: dict[str, tuple[str, ...]] = {
    "shp": (),
    "hh_rlhf": (),
    "grammar": (),
    "personal_data": _keys("data", "redact columns.actor columns.reward columns.rlhf"),
    "preference_data": (
        "seed",
        *_keys("data", "sources number_of_samples label_noise redact"),
        *_SPLIT,
        # Limits of checks count too: a version is reused with the check results it was made with.
        *_keys("checks", "max_identical_pairs max_length_only_accuracy"),
        "reward_config.objective",
    ),
    "synthetic_conversations": (
        "seed",
        *_WRITER,
        *_keys("llm", "synthetic_conversations conversations_by turns rows_per_call"),
        *_SPLIT,
    ),
    "synthetic_prompts": (
        "seed",
        *_WRITER,
        *_keys("llm", "synthetic_prompts rows_per_call"),
        *_SPLIT,
    ),
    "synthetic_completions": (
        "seed",
        *_WRITER,
        *_keys("llm", "synthetic_completions rows_per_call"),
        *_SPLIT,
    ),
    "actor_training_data": ("data.actor_replies", *_SPLIT, "checks.few_rows"),
    "rlhf_training_data": (*_SPLIT, "checks.few_rows", *_EVALUATION_JUDGE),
    "reward_training_data": (
        "seed",
        *_JUDGE,
        *_keys("llm", "scored_pairs judge_samples agreement_by"),
        *_SPLIT,
        *_keys("checks", "min_reward_rows min_judge_agreement max_judge_unread"),
        "reward_config.objective",
    ),
    "data_audit": (
        "data.redact",
        "actor_config.max_sequence_length",
        "reward_config.max_sequence_length",
        *_keys(
            "checks",
            "max_length_only_accuracy max_near_duplicates max_alike_pairs max_personal_data",
        ),
    ),
    "actor_base": ("seed", *_keys("actor_config", _SCRATCH + " max_sequence_length")),
    "reward_base": ("seed", *_keys("reward_config", _SCRATCH + " train max_sequence_length")),
    "reward_model": (
        "seed",
        *_keys(
            "reward_config",
            _OPTIMIZER + " objective margin train centering max_sequence_length",
        ),
    ),
    "actor_sft": (
        "seed",
        *_keys("actor_config", _OPTIMIZER + " froze_embeddings packing max_sequence_length"),
    ),
    "actor_ppo": (
        "seed",
        *_keys("actor_config", "max_sequence_length max_tokens thoughts " + _ADAPTER),
        *_keys("critic_config", _ADAPTER),
        *_keys(
            "trainer_config",
            "actor_lr critic_lr actor_eps_clip critic_eps_clip beta_s gamma_discounted gae_lambda "
            "kl_beta kl_target kl_horizon update_kl_limit value_coefficient score_clip "
            "missing_eos_penalty max_grad_norm temperature num_episodes max_timesteps "
            "update_timesteps num_examples batch_size epochs precision collapse collapse_share "
            "attention "
            "peft_enable",
        ),
    ),
    "evaluation": (
        "seed",
        *_EVALUATION_JUDGE,
        *_keys("actor_config", "max_tokens max_sequence_length thoughts"),
        *_keys("evaluation", "prompts temperature known_answers bootstrap_samples table_rows"),
        *_keys("release", "stage min_win_rate max_kl max_length_ratio"),
        *_keys("checks", "min_reward_accuracy max_kl max_length_ratio max_known_answers_lost"),
        "checks.max_judge_unread",
    ),
    "release": ("release.stage", "actor_config.temperature", "actor_config.max_tokens"),
}


def upstream_of(asset: str, settings: AssistantSettings) -> list[str]:
    """The upstream assets whose versions count for this assistant.

    An unused source, the other candidate of a release, or the data behind a tokenizer that isn't
    trained here may change without anything being made again.
    """
    unused = set(SOURCES) - set(settings.data.sources)
    if asset == "actor_base" and settings.actor_config.model != SCRATCH:
        unused.add("actor_training_data")
    if asset == "reward_base" and settings.reward_config.model != SCRATCH:
        unused.add("actor_training_data")
    if asset == "evaluation" and not settings.role("evaluation_judge").asks_a_model:
        unused.add("personal_data")  # Its templates are an LLM's to judge by.
    if asset == "evaluation" and settings.evaluation.known_answers is None:
        unused.add("actor_base")
    if asset == "release":
        unused |= {"actor_sft", "actor_ppo"} - {settings.release.stage}
    return [name for name in UPSTREAM[asset] if name not in unused]


def owner_of(asset: str, assistant: Assistant) -> str | None:
    """Whose version of `asset` an assistant uses: sources are shared by all."""
    return None if asset in SOURCES else assistant.name


def meant_asset(name: str) -> str:
    """What an error says to do of a `name` that is no asset's."""
    close = difflib.get_close_matches(name, CODE_VERSION, n=1)
    return f"did you mean {close[0]}?" if close else f"use one of {', '.join(CODE_VERSION)}"


def require_pins(assistant: Assistant, store: Store) -> None:
    """Raise SettingsError where `store.pins` names an asset or a version that there isn't."""
    for asset, pin in assistant.settings.store.pins.items():
        key = f"{assistant.config}: store.pins.{asset}"
        if asset not in CODE_VERSION:
            raise SettingsError(f"{key}: there is no asset of that name; {meant_asset(asset)}")
        owner = owner_of(asset, assistant)
        if store.version(asset, owner, pin) is None:
            have = ", ".join(version.id for version in store.versions(asset, owner)) or "none"
            raise SettingsError(f"{key}: {asset} has no version {pin}; those there are: {have}")


def version_in_use(asset: str, assistant: Assistant, store: Store) -> Version | None:
    """The pinned, else the current version, not verified; None where there is none."""
    owner = owner_of(asset, assistant)
    wanted = assistant.settings.store.pins.get(asset)
    if wanted is None and (current := store.current(asset, owner)):
        wanted = current.version
    return store.version(asset, owner, wanted) if wanted else None


def read_in_use(asset: str, assistant: Assistant, store: Store) -> Version:
    """The same, every file verified; raises AbsentError, CorruptVersionError."""
    pin = assistant.settings.store.pins.get(asset)
    return store.read(asset, owner_of(asset, assistant), pin)


def current_upstream(asset: str, assistant: Assistant, store: Store) -> dict[str, str]:
    """Upstream asset -> the version that would be used now (pinned, else current)."""
    versions = {}
    for name in upstream_of(asset, assistant.settings):
        version = version_in_use(name, assistant, store)
        if version is None:
            raise AbsentError(f"{asset} needs {name}, which was never made for {assistant.name}")
        versions[name] = version.id
    return versions


def source_recipe(source: str, store: Store, asked: Asked, look: bool = True) -> Recipe:
    """The recipe of a shared source as a run asks for it.

    A hub revision stays at the commit of the current version until a refresh is asked for. Without
    `look` the network is left alone.
    """
    current = store.current(source, None)
    version = store.version(source, None, current.version) if current else None
    known = version.manifest.inputs if version else None
    inputs = source_inputs(source, asked, known, look)
    return Recipe(source, None, CODE_VERSION[source], {}, {}, inputs)


def recipe_for(
    asset: str,
    assistant: Assistant,
    upstream: Mapping[str, str],
    store: Store,
    unpromoted: list[str],
) -> Recipe:
    """The recipe of an assistant's asset, given the upstream versions.

    `unpromoted` are the overrides behind it that nobody promoted: the gate reads them.
    """
    settings = {key: assistant.settings.at(key) for key in MADE_FROM[asset]}
    inputs: dict[str, Any] = {}
    if asset == "personal_data":
        inputs["files"] = personal_fingerprint(assistant.folder, assistant.settings)
    elif asset == "data_audit":
        inputs["tokenizer"] = tokenizer_fingerprint(assistant.settings)
    elif asset == "evaluation":
        inputs["unpromoted_overrides"] = unpromoted
    elif asset == "release":
        inputs["approved"] = is_approved(store.root, assistant.name, upstream["evaluation"])
    elif asset in _DATASETS and (lengths := lengths_identity(assistant.settings)):
        inputs["lengths"] = lengths
    if asset in _TELL_OF_UNREAD and (unread := unread_files(assistant.folder, assistant.settings)):
        inputs["unread"] = unread
    _replace_local_models(settings, inputs)
    return Recipe(asset, assistant.name, CODE_VERSION[asset], dict(upstream), settings, inputs)


def _replace_local_models(settings: dict[str, Any], inputs: dict[str, Any]) -> None:
    """A local model counts by its files, wherever it stands."""
    for key, value in settings.items():
        if isinstance(value, str) and Path(value).is_absolute():
            place = Path(value)
            inside = sorted(path for path in place.rglob("*") if path.is_file())
            files = [place] if place.is_file() else inside
            names = [path.relative_to(place).as_posix() for path in files]
            hashes = hash_files(f"hashes the files of {key}", files)
            inputs[key] = dict(zip(names, hashes, strict=True))
            settings[key] = "local file" if place.is_file() else "local folder"


def inherited_overrides(
    asset: str, assistant: Assistant, store: Store, own: Mapping[str, Any]
) -> dict[str, Any]:
    """This run's overrides with those that stand behind the upstream versions in use."""
    found: dict[str, Any] = {}
    for name in upstream_of(asset, assistant.settings):
        owner = owner_of(name, assistant)
        current = store.current(name, owner)
        if name in assistant.settings.store.pins:
            version = version_in_use(name, assistant, store)
            found |= version.manifest.overrides if version else {}
        elif current is not None:
            found |= current.overrides
    return found | dict(own)


def versions_in_use(assistant: Assistant, store: Store) -> dict[str, set[str]]:
    """Asset -> versions that must stay: current, pinned, released, and upstream of those."""
    used: dict[str, set[str]] = {asset: set() for asset in CODE_VERSION}
    waiting = list(assistant.settings.store.pins.items())
    for asset in CODE_VERSION:
        if current := store.current(asset, owner_of(asset, assistant)):
            waiting.append((asset, current.version))
    while waiting:
        asset, wanted = waiting.pop()
        version = store.version(asset, owner_of(asset, assistant), wanted)
        if version is not None and wanted not in used[asset]:
            used[asset].add(wanted)
            waiting.extend(version.manifest.upstream.items())
    return used
