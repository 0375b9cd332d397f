"""The stages actor_base and reward_base: a base model's weights and tokenizer, wherever from."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import pyarrow.compute as pc
import torch
from safetensors import SafetensorError
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    AutoTokenizer,
)

from chatllama_pipeline.errors import DataError, SettingsError
from chatllama_pipeline.models.adapters.lora import save_whole
from chatllama_pipeline.models.bases.exportable import require_exportable
from chatllama_pipeline.models.bases.gguf import (
    as_plain_model,
    gguf_arguments,
    gguf_config,
    read_gguf,
)
from chatllama_pipeline.models.bases.own_tokenizer import require_plain_text
from chatllama_pipeline.models.bases.preflight import require_room
from chatllama_pipeline.models.bases.scratch import ScratchSize, make_scratch_model
from chatllama_pipeline.models.bases.sources import (
    Found,
    find_model,
    find_tokenizer,
    is_pickled,
    require_tokenizer,
)
from chatllama_pipeline.models.chat.rendering import check_options, set_options
from chatllama_pipeline.models.chat.template import (
    CHAT_TEMPLATE,
    ensure_chat_template,
    pair_types,
    stop_ids,
)
from chatllama_pipeline.models.families.kinds import Kind, kind_of
from chatllama_pipeline.models.families.manner import ORDINARY, set_manner
from chatllama_pipeline.models.families.pairs import PAIR_TYPES
from chatllama_pipeline.models.families.switches import set_switches
from chatllama_pipeline.models.families.text_only import text_only
from chatllama_pipeline.models.families.unembedded import without_unembedded
from chatllama_pipeline.models.generation import generate_plainly
from chatllama_pipeline.models.heads import SCORING_SUFFIX, has_score, scoring_class
from chatllama_pipeline.models.loading import (
    CODE_TRUSTED,
    as_they_are,
    load_config,
    load_tokenizer,
    loading,
)
from chatllama_pipeline.models.probe.base import probe_actor, probe_reward
from chatllama_pipeline.models.quiet import quiet_transformers
from chatllama_pipeline.progress import Progress
from chatllama_pipeline.records import TABLE_FILE, Outcome, StageSpec
from chatllama_pipeline.seeds import stage_seed
from chatllama_pipeline.settings import SCRATCH, ActorSettings, AssistantSettings, RewardSettings
from chatllama_pipeline.table_files import record_batches

# CodeGen keeps its heads in as many parts as the machine it was trained on had.
CODEGEN_HEADS = 4
SECTIONS = {"actor_base": "actor_config", "reward_base": "reward_config"}


def run(spec: StageSpec, progress: Progress) -> Outcome:
    """Write a base model's folder: made from nothing, copied, or downloaded.

    `model: scratch` needs the input actor_training_data, on whose train split the tokenizer is
    trained; both bases then get the same one. Raises SettingsError naming the key and the cure.
    """
    quiet_transformers()
    settings = AssistantSettings.of_stage(spec)
    key = SECTIONS[spec.stage]
    section = settings.actor_config if key == "actor_config" else settings.reward_config
    output, seed = Path(spec.output), stage_seed(settings.seed, spec.stage)
    warnings: list[str] = []
    source = None
    if section.model == SCRATCH:
        size = scratch_size(section, key)
        check_options(CHAT_TEMPLATE, section.template_options, key)
        texts = _training_texts(Path(spec.inputs["actor_training_data"]))
        parameters = make_scratch_model(texts, size, seed, output)
        metrics: dict[str, Any] = {"parameters": parameters, "revision": SCRATCH}
        tokenizer = load_tokenizer(output)
    else:
        source, tokenizer, metrics, warnings = _copy_model(section, key, seed, output)
    if key == "actor_config" and settings.release.gguf:
        config = load_config(output)
        require_exportable(config, config.architectures[0], tokenizer, "release.gguf")
    probe = probe_actor if key == "actor_config" else probe_reward
    probed = probe(output, key, section.model, source, tokenizer)
    progress.say(f"{section.model}: {metrics['parameters']:,} parameters; {probed.told}")
    return Outcome(
        metrics={**metrics, "probe": probed.told}, warnings=[*warnings, *probed.warnings]
    )


def scratch_size(section: ActorSettings | RewardSettings, key: str) -> ScratchSize:
    """The sizes that a section's scratch_* settings name; heads must divide the hidden size."""
    if section.scratch_hidden_size % (2 * section.scratch_heads):
        raise SettingsError(
            f"{key}.scratch_hidden_size {section.scratch_hidden_size} is not a multiple of twice "
            f"{key}.scratch_heads {section.scratch_heads}: choose sizes that are"
        )
    if section.scratch_family == "codegen" and section.scratch_heads % CODEGEN_HEADS:
        raise SettingsError(
            f"{key}.scratch_heads {section.scratch_heads} is not a multiple of {CODEGEN_HEADS}, "
            f"which {key}.scratch_family: codegen needs"
        )
    return ScratchSize(
        hidden_size=section.scratch_hidden_size,
        layers=section.scratch_layers,
        heads=section.scratch_heads,
        vocabulary=section.scratch_vocabulary,
        max_length=section.max_sequence_length,
        family=section.scratch_family,
    )


def _training_texts(folder: Path) -> Iterator[str]:
    """Prompt turns and completions of the train split, in the table's order."""
    found = False
    for batch in record_batches(folder / TABLE_FILE):
        for row in batch.filter(pc.equal(batch["split"], "train")).to_pylist():
            found = True
            yield from (turn["content"] for turn in row["prompt"])
            yield row["completion"]
    if not found:
        raise DataError(f"{folder}: no training rows to train a tokenizer on")


def _copy_model(
    section: ActorSettings | RewardSettings, key: str, seed: int, output: Path
) -> tuple[Any, Any, dict[str, Any], list[str]]:
    """Save the model that a section names into `output`; model, tokenizer, metrics, warnings."""
    trust = section.trust_remote_code
    found = find_model(section.model, f"{key}.model", with_code=trust, gguf_file=section.gguf_file)
    load = partial(_load, name=section.model, trust_remote_code=trust)
    gguf = None if found.gguf is None else read_gguf(found.folder / found.gguf, f"{key}.model")
    tokenizers = _tokenizer_files(section, key, found)
    config = gguf_config(gguf) if gguf else load(AutoConfig, found.folder, f"{key}.model")
    set_switches(config)
    _refuse_quantized(config, f"{key}.model", section.model)
    tokenizer = as_they_are(
        load(AutoTokenizer, tokenizers.folder, f"{key}.tokenizer_path", **tokenizers.arguments)
    )
    torch.manual_seed(seed)  # an encoder's checkpoint may lack its pooling layer
    kind = _class_of(config, found.folder, section, key)
    arguments = gguf_arguments(gguf) if gguf else {"dtype": "auto"}
    model, info = load(
        kind, found.folder, f"{key}.model", config=config, output_loading_info=True, **arguments
    )
    if kind is not AutoModel:
        _refuse_incomplete(model, info["missing_keys"], found.folder, f"{key}.model")
    if gguf:
        model = as_plain_model(model, gguf)
    whole, model = model, text_only(model, f"{key}.model", section.model)
    named = f"{key}.{'model' if section.tokenizer_path is None else 'tokenizer_path'}"
    told = f"the tokenizer of {section.tokenizer_path or section.model}"
    tokenizer, plain = without_unembedded(tokenizer, _words_of(model), named, told)
    ensure_chat_template(tokenizer, model.config)
    set_options(tokenizer, section.template_options, key)
    require_plain_text(tokenizer, named, told)
    if isinstance(section, ActorSettings):
        require_room(model.config, tokenizer, section)
    # A config from elsewhere may claim anything: only the setting and the probe count.
    vars(model.config).pop(CODE_TRUSTED, None)
    set_manner(model.config, ORDINARY)
    if kind_of(model.config) is Kind.ENCODER:
        setattr(model.config, PAIR_TYPES, _marks(model.config, tokenizer))
    _require_start(model, f"{key}.model", section.model)
    if trust:
        setattr(model.config, CODE_TRUSTED, True)
    if model.can_generate():
        generate_plainly(model, tokenizer, stop_ids(tokenizer))
    save_whole(model, output)
    tokenizer.save_pretrained(output)
    warnings = [gguf.warning] if gguf else _pickle_warnings(found.folder, key, section)
    # An encoder's head that fills gaps is of no use here, and no loss.
    homeless = [] if kind is AutoModel else sorted(info["unexpected_keys"])
    warnings += _left_behind(whole, model, homeless, key, section.model)
    if plain:
        warnings.append(
            f"{named}: the model has no embedding for its tokenizer's {', '.join(plain)}, "
            "which is plain text from here on"
        )
    metrics = {"parameters": int(model.num_parameters()), "revision": found.commit}
    return model, tokenizer, {**metrics, **(gguf.metrics if gguf else {})}, warnings


def _marks(config: Any, tokenizer: Any) -> list[int]:
    """The types that an encoder reads of a pair: its tokenizer may tell more than it has."""
    types = pair_types(tokenizer)
    known = getattr(config, "type_vocab_size", None)
    return types if known is None or max(types, default=0) < known else []


def _words_of(model: Any) -> int:
    """How many ids a model both reads and writes: its decoder may have words of its own."""
    tables = (model.get_input_embeddings(), model.get_output_embeddings())
    return min(int(table.weight.shape[0]) for table in tables if table is not None)


def _left_behind(whole: Any, model: Any, homeless: list[str], key: str, name: str) -> Iterator[str]:
    """Warnings of what was not taken: tensors without a place, what reads more than text."""
    if homeless:
        yield (
            f"{key}.model: the weights of {name} hold {len(homeless)} tensors for which a "
            f"{type(whole).__name__} has no place ({', '.join(homeless[:3])}): they were left out"
        )
    if model is not whole:
        yield (
            f"{key}.model: {name} reads more than text ({whole.config.model_type}); its "
            f"language model alone was taken ({model.config.model_type})"
        )


def _refuse_incomplete(model: Any, missing: Iterable[str], folder: Path, key: str) -> None:
    if lost := sorted(missing):
        raise SettingsError(
            f"{key}: the weights in {folder} lack {len(lost)} tensors of a "
            f"{type(model).__name__} ({', '.join(lost[:3])}, ...): save the whole model there"
        )


def _tokenizer_files(section: ActorSettings | RewardSettings, key: str, found: Found) -> Found:
    """Where the tokenizer stands: beside the model's files in `found`, in them, or elsewhere."""
    if section.tokenizer_path is not None:
        other = find_tokenizer(section.tokenizer_path, f"{key}.tokenizer_path")
        if other.gguf is not None:
            read_gguf(other.folder / other.gguf, f"{key}.tokenizer_path")
        return other
    if found.gguf is None:
        require_tokenizer(found.folder, f"{key}.model")
    return found


def _require_start(model: Any, key: str, name: str) -> None:
    """Let an encoder-decoder's config name the token that a reply is begun with.

    It may stand in the generation config alone; else it is the BOS token, as in transformers.
    """
    config, own = model.config, getattr(model, "generation_config", None)
    if kind_of(config) is not Kind.ENCODER_DECODER:
        return
    named = [(part, word) for word in ("decoder_start", "bos") for part in (config, own)]
    found = [getattr(part, f"{word}_token_id", None) for part, word in named]
    start = next((number for number in found if number is not None), None)
    if start is None:
        raise SettingsError(
            f"{key}: {name} ({config.model_type}) doesn't say which token its decoder begins with: "
            "set decoder_start_token_id in its config.json (T5's is the pad token's id)"
        )
    config.decoder_start_token_id = start


def _refuse_quantized(config: Any, key: str, name: str) -> None:
    method = (getattr(config, "quantization_config", None) or {}).get("quant_method")
    if method is not None:
        raise SettingsError(
            f"{key}: the weights of {name} are quantized ({method}), and rounded numbers can "
            "neither be trained nor merged with an adapter: name the model that it was made from"
        )


def _class_of(config: Any, folder: Path, section: ActorSettings | RewardSettings, key: str) -> Any:
    """The class that reads a checkpoint without losing anything of use."""
    kind = kind_of(config)
    if isinstance(section, RewardSettings):
        if has_score(config):
            _refuse_pooling(config, f"{key}.model", section.model)
            return scoring_class(config, folder)
        if not section.train:
            raise SettingsError(
                f"{key}.train: false takes {section.model} as it is, and it has no trained head to "
                "score with: name a reward model (OpenAssistant/reward-model-deberta-v3-large-v2), "
                f"or set {key}.train: true"
            )
    elif kind is Kind.ENCODER or has_score(config):
        raise SettingsError(
            f"{key}.model: {section.model} ({config.model_type}) scores or fills gaps, it cannot "
            "write: choose a decoder-only or encoder-decoder model (Llama, OPT, Flan-T5, ...)"
        )
    if kind is Kind.ENCODER:
        return AutoModel
    return AutoModelForSeq2SeqLM if kind is Kind.ENCODER_DECODER else AutoModelForCausalLM


def _refuse_pooling(config: Any, key: str, name: str) -> None:
    """Refuse the heads that transformers puts on encoder-decoders: BART's, T5's.

    They read the decoder's last state through a layer more.
    """
    [head, *_] = config.architectures
    if kind_of(config) is Kind.ENCODER_DECODER and not head.endswith(SCORING_SUFFIX):
        raise SettingsError(
            f"{key}: {name} scores by the head of a {head}, which gives no value for each token: "
            "name a decoder-only or encoder reward model, or the base model that it was made from"
        )


def _pickle_warnings(folder: Path, key: str, section: ActorSettings | RewardSettings) -> list[str]:
    if not is_pickled(folder):
        return []
    return [
        f"{key}.model: {section.model} has its weights in pickle files alone; they were read "
        "weights-only, so that no code in them ran, and saved as safetensors"
    ]


def _load(kind: Any, folder: Path, key: str, *, name: str, **arguments: Any) -> Any:
    """`kind.from_pretrained`; what fails names the setting and what can be done."""
    try:
        with loading(folder):
            return kind.from_pretrained(str(folder), local_files_only=True, **arguments)
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError, UnpicklingError) as error:
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        if "trust_remote_code" in str(error):
            cure = f"it brings code of its own; set {key.split('.')[0]}.trust_remote_code: true "
            cure += "if you have read and trust it"
        elif "Unrecognized configuration class" in reason:
            reason = f"transformers' {kind.__name__} knows no model of its kind"
            cure = "name one that reads and writes text alone"
        else:
            cure = "its files are damaged or of another library: fetch or save them again"
        raise SettingsError(f"{key}: {name} could not be loaded ({reason}): {cure}") from error
