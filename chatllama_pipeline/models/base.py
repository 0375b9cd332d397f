"""The stages actor_base and reward_base: a base model's weights and tokenizer, wherever from."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.compute as pc
import pyarrow.parquet as pq
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from chatllama_pipeline.errors import DataError, SettingsError
from chatllama_pipeline.models.chat import ensure_chat_template
from chatllama_pipeline.models.quiet import quiet_transformers
from chatllama_pipeline.models.scratch import ScratchSize, make_scratch_model
from chatllama_pipeline.progress import Progress
from chatllama_pipeline.records import TABLE_FILE, Outcome, StageSpec
from chatllama_pipeline.seeds import stage_seed
from chatllama_pipeline.settings import (
    SCRATCH,
    ActorSettings,
    AssistantSettings,
    RewardSettings,
)

SECTIONS = {"actor_base": "actor_config", "reward_base": "reward_config"}
WEIGHT_FILES = ("*.safetensors", "pytorch_model*.bin")
TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "spiece.model")
PATH_STARTS = ("/", "./", "../", "~")


def run(spec: StageSpec, progress: Progress) -> Outcome:
    """Write a causal language model's folder: made from nothing, copied, or downloaded.

    `model: scratch` needs the input actor_training_data, on whose train split the tokenizer is
    trained; both bases then get the same one. Raises SettingsError naming the key and the cure.
    """
    quiet_transformers()
    settings = AssistantSettings.model_validate(spec.settings)
    key = SECTIONS[spec.stage]
    section = settings.actor_config if key == "actor_config" else settings.reward_config
    output = Path(spec.output)
    if section.model == SCRATCH:
        size = scratch_size(section, key)
        texts = _training_texts(Path(spec.inputs["actor_training_data"]))
        parameters = make_scratch_model(texts, size, stage_seed(settings.seed, spec.stage), output)
        revision = SCRATCH
    else:
        parameters, revision = _copy_model(section, key, output)
    progress.say(f"{section.model}: {parameters:,} parameters")
    return Outcome(metrics={"parameters": parameters, "revision": revision})


def scratch_size(section: ActorSettings | RewardSettings, key: str) -> ScratchSize:
    """The sizes that a section's scratch_* settings name; heads must divide the hidden size."""
    if section.scratch_hidden_size % (2 * section.scratch_heads):
        raise SettingsError(
            f"{key}.scratch_hidden_size {section.scratch_hidden_size} is not a multiple of twice "
            f"{key}.scratch_heads {section.scratch_heads}: choose sizes that are"
        )
    return ScratchSize(
        hidden_size=section.scratch_hidden_size,
        layers=section.scratch_layers,
        heads=section.scratch_heads,
        vocabulary=section.scratch_vocabulary,
        max_length=section.max_sequence_length,
    )


def _training_texts(folder: Path) -> Iterator[str]:
    """Prompt turns and completions of the train split, in the table's order."""
    table = pq.read_table(folder / TABLE_FILE, filters=pc.field("split") == "train")
    if table.num_rows == 0:
        raise DataError(f"{folder}: no training rows to train a tokenizer on")
    for row in table.to_pylist():
        yield from (turn["content"] for turn in row["prompt"])
        yield row["completion"]


def _copy_model(section: ActorSettings | RewardSettings, key: str, output: Path) -> tuple[int, str]:
    """Save the model that a section names into `output`; parameters and resolved revision."""
    source, commit = _locate(section.model, f"{key}.model", section.tokenizer_path is None)
    config = _load(AutoConfig, source, commit, f"{key}.model")
    if config.is_encoder_decoder:
        raise SettingsError(
            f"{key}.model: {section.model} is an encoder-decoder ({config.model_type}); "
            "choose a decoder-only model (Llama, Qwen, Mistral, GPT-2, OPT, ...)"
        )
    commit = getattr(config, "_commit_hash", None) or commit
    tokenizer_source, tokenizer_commit = source, commit
    if section.tokenizer_path is not None:
        tokenizer_source, tokenizer_commit = _locate(
            section.tokenizer_path, f"{key}.tokenizer_path", False
        )
    tokenizer = _load(AutoTokenizer, tokenizer_source, tokenizer_commit, f"{key}.tokenizer_path")
    model = _load(AutoModelForCausalLM, source, commit, f"{key}.model", dtype="auto")
    rows = model.get_input_embeddings().weight.shape[0]
    if len(tokenizer) > rows:
        raise SettingsError(
            f"{key}.tokenizer_path: {tokenizer_source} has {len(tokenizer)} ids, {section.model} "
            f"has embeddings for {rows}: use the model's own tokenizer"
        )
    ensure_chat_template(tokenizer, config)
    model.save_pretrained(output)
    tokenizer.save_pretrained(output)
    return int(model.num_parameters()), commit or "local"


def _locate(name: str, key: str, with_tokenizer: bool) -> tuple[str, str | None]:
    """A local folder's path, or a hub id and its revision (`owner/name@revision`)."""
    folder = Path(name).expanduser()
    if not name.startswith(PATH_STARTS) and not folder.is_dir():
        hub_id, _, revision = name.partition("@")
        return hub_id, revision or None
    if not folder.is_dir():
        raise SettingsError(f"{key}: the folder {folder} does not exist")
    missing = []
    if key.endswith(".model"):
        if not (folder / "config.json").is_file():
            missing.append("config.json")
        if not any(any(folder.glob(pattern)) for pattern in WEIGHT_FILES):
            missing.append("weights (model.safetensors)")
    if (with_tokenizer or key.endswith(".tokenizer_path")) and not any(
        (folder / name).is_file() for name in TOKENIZER_FILES
    ):
        missing.append("a tokenizer (tokenizer.json)")
    if missing:
        raise SettingsError(
            f"{key}: the folder {folder} has no {' and no '.join(missing)}; "
            "save model and tokenizer there with save_pretrained"
        )
    return str(folder), None


def _load(kind: Any, source: str, revision: str | None, key: str, **arguments: Any) -> Any:
    """`kind.from_pretrained`; what fails names the setting and what can be done."""
    try:
        return kind.from_pretrained(source, revision=revision or "main", **arguments)
    except (OSError, ValueError) as error:
        raise SettingsError(
            f"{key}: {source} could not be loaded ({str(error).splitlines()[0]}); give a local "
            "folder, or model: scratch (needs no network), or set HF_TOKEN if the model is gated"
        ) from error
