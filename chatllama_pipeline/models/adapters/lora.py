"""LoRA adapters by peft, and the version folder of a model that was trained through one.

    <version>/adapter_config.json, adapter_model.safetensors    the adapter, in peft's own format
    <version>/config.json, tokenizer, ...                       as of any model
    <version>/base/                                             the weights it stands on

The base's files are hard links to those of the version they came from (copies where the disk
can't link): each version is whole, and the weights stand on the disk once.

peft, and `merging` with it, are imported where an adapter is: most models have none, and wait for
their libraries longer than they need to.
"""

from __future__ import annotations

import copy
import json
import sys
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers.pytorch_utils import Conv1D

from chatllama_pipeline.errors import CheckError, SettingsError, StoreError
from chatllama_pipeline.models.adapters.targets import head_names, in_words, refuse_dropout, targets
from chatllama_pipeline.models.sharding.parts import in_turn, put, whole_size
from chatllama_pipeline.progress import MEGABYTE, growing, watching
from chatllama_pipeline.settings import LoraSettings
from chatllama_pipeline.store.model_files import (
    ADAPTER_CONFIG,
    ADAPTER_NAME,
    ADAPTER_WEIGHTS,
    BASE_FOLDER,
    base_folder,
)
from chatllama_pipeline.store.pool import link_or_copy

if TYPE_CHECKING:
    from peft import LoraConfig

# peft's own prefix of the names in an adapter's file, and its word for a scoring model.
PREFIX, SCORES = "base_model.model.", "SEQ_CLS"
# Where peft defines the class of its modules.
PEFT_LAYERS = "peft.tuners.tuners_utils"


def add_adapter(model: Any, lora: LoraSettings, section: str, base: Path | str, seed: int) -> None:
    """Freeze `model` and put a fresh adapter into it, drawn from `seed`; its output stays.

    A scoring model's head goes on being trained. `base` is the folder of the weights beneath.
    Raises SettingsError, with the layers there are, for a target that `model` doesn't have, or
    whose adapter could not be merged or loaded again.
    """
    from peft import LoraConfig

    choices = in_words(model)
    config = LoraConfig(
        r=lora.r,
        lora_alpha=lora.lora_alpha,
        lora_dropout=lora.lora_dropout,
        target_modules=targets(model, lora, section),
        use_rslora=lora.use_rslora,
        fan_in_fan_out=any(isinstance(module, Conv1D) for module in model.modules()),
        task_type=_task_type(model),
        base_model_name_or_path=str(base),
    )
    try:
        refuse_dropout(model, config, section)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            _inject(model, config)
    except ValueError as error:
        if isinstance(error, SettingsError):
            raise
        raise SettingsError(
            f"{section}.lora.target_modules: {type(model).__name__} takes no adapter there "
            f"({str(error).splitlines()[0]}); layers to name instead: {choices}"
        ) from error
    _try(model, f"{section}.lora.target_modules", choices, seed)
    set_trainable(model)


def _try(model: Any, key: str, choices: str, seed: int) -> None:
    """Raise SettingsError where the adapter in `model` could not be merged or loaded again."""
    from chatllama_pipeline.models.adapters.merging import (
        adapted_layers,
        can_untie,
        shared_layers,
        tried,
        unmergeable,
    )

    layers = adapted_layers(model)
    culprits = [layer.leaf for layer in shared_layers(model, layers)]
    with in_turn(model):
        apart = not culprits or can_untie(model)
    if apart:
        try:
            with in_turn(model), tried(model, seed):
                culprits = unmergeable(model)
        except (RuntimeError, TypeError, ValueError, IndexError) as error:
            # Positions that are looked up by other numbers than ids, for example.
            named = ", ".join(sorted({layer.leaf for layer in layers}))
            raise SettingsError(
                f"{key}: {type(model).__name__} can't be run with an adapter of {named} "
                f"({str(error).splitlines()[0]}); layers to name instead: {choices}"
            ) from error
    if culprits:
        raise SettingsError(
            f"{key}: an adapter of {', '.join(sorted(set(culprits)))} can't be merged into "
            f"{type(model).__name__}, which uses these weights in other ways too; layers to name "
            f"instead: {choices}"
        )
    if not _comes_back(model):
        raise SettingsError(
            f"{key}: {type(model).__name__} would be adapted elsewhere when it is loaded again; "
            f"name the layers by their last names: {choices}"
        )


def _comes_back(model: Any) -> bool:
    """Whether the adapter's config, as stored, makes the same weights in a fresh model.

    Of a model of its own code, which may not be made without weights, that is taken on trust.
    """
    from chatllama_pipeline.models.adapters.merging import without_weights

    bare = without_weights(type(model), copy.deepcopy(model.config))
    if bare is None:
        return True
    with torch.device("meta"), torch.random.fork_rng(devices=[]):
        _inject(bare, _config(_stored(model)))
    shapes = [
        {name: p.shape for name, p in each.named_parameters() if ".lora_" in name}
        for each in (model, bare)
    ]
    return shapes[0] == shapes[1]


def load_adapter(model: Any, folder: Path | str) -> None:
    """Put the adapter in `folder`, with its head if it has one, into `model`, frozen.

    `model` holds the raw base. An adapter of a language model may go under a scoring model: the
    head is then left as it is, and so is an adapter of the output layer. Raises StoreError where
    the adapter is of another model.
    """
    folder = Path(folder)
    stored = json.loads((folder / ADAPTER_CONFIG).read_text())
    weights = load_file(folder / ADAPTER_WEIGHTS)
    if _task_type(model) == SCORES != stored["task_type"]:
        inside = {name for name, _ in model.base_model.named_children()} | {model.base_model_prefix}
        weights = {
            n: w for n, w in weights.items() if n.removeprefix(PREFIX).split(".")[0] in inside
        }
    stored |= {"modules_to_save": None, "inference_mode": False, "task_type": _task_type(model)}
    config = _config(stored)
    config.base_model_name_or_path = str(base_folder(folder))
    if weights:
        with torch.random.fork_rng(devices=[]):
            _inject(model, config)
    _fill(model, weights, folder / ADAPTER_WEIGHTS)
    model.requires_grad_(False)


def _fill(model: Any, weights: Mapping[str, torch.Tensor], file: Path) -> None:
    """Copy an adapter file's tensors into `model`; every weight of the adapter must be there."""
    names = {_outside(name): name for name, _ in model.named_parameters()}
    # T5's language model has no prefix before its backbone, its scoring model has.
    within = f"{PREFIX}{model.base_model_prefix}."
    names = {outside.replace(within, PREFIX, 1): name for outside, name in names.items()} | names
    unknown = weights.keys() - names.keys()
    loaded = {names[outside]: tensor for outside, tensor in weights.items() if outside in names}
    lacking = {name for name in names.values() if ".lora_" in name} - loaded.keys()
    if unknown or lacking:
        odd = ", ".join(sorted(unknown | lacking)[:3])
        raise StoreError(f"{file} is no adapter of a {type(model).__name__} ({odd}): make it again")
    for name, tensor in loaded.items():
        put(model.get_parameter(name), tensor)


def set_trainable(model: Any) -> None:
    """Let the adapter and a scoring model's head learn, and nothing else."""
    trained = set(_trained_names(model))
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in trained)


def trained_state(
    model: nn.Module, state: Mapping[str, torch.Tensor] | None = None
) -> dict[str, torch.Tensor]:
    """The entries of `state` (else of `model.state_dict()`) but for frozen weights."""
    frozen = {
        name for name, p in model.named_parameters(remove_duplicate=False) if not p.requires_grad
    }
    entries = model.state_dict() if state is None else state
    return {name: tensor for name, tensor in entries.items() if name not in frozen}


def trained_share(model: Any) -> str:
    """How many of the weights learn, in words."""
    every = sum(map(whole_size, model.parameters()))
    trained = sum(whole_size(p) for p in model.parameters() if p.requires_grad)
    return f"trains {trained:,} of {every:,} weights ({100 * trained / every:.2f} %)"


def is_adapted(model: Any) -> bool:
    """Whether `model` has an adapter in it."""
    return bool(_tuners(model))


def switch_adapter(model: Any, on: bool) -> None:
    """Let the adapter count or not: without it a model gives its base's outputs, bit for bit."""
    for tuner in _tuners(model):
        tuner.enable_adapters(on)


def without_dropout(model: Any) -> Any:
    """`model` with no noise in its adapter while it trains; what is stored of it stays."""
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    return model


def _tuners(model: Any) -> list[Any]:
    """peft's modules in `model`; none where peft, which would have made them, was not imported."""
    if PEFT_LAYERS not in sys.modules:
        return []
    kind = sys.modules[PEFT_LAYERS].BaseTunerLayer
    return [module for module in model.modules() if isinstance(module, kind)]


def save_whole(model: Any, folder: Path | str) -> None:
    """`model.save_pretrained`, telling how far it is where that takes long."""
    tensors = {t.data_ptr(): t.nbytes for t in model.state_dict().values()}
    size = sum(tensors.values()) / MEGABYTE
    with watching("writes weights", size, growing(Path(folder)), "MB"):
        model.save_pretrained(folder)


def save_model(model: Any, folder: Path | str) -> None:
    """Write `model` as a whole version folder: plain, or adapter with its base beside it."""
    folder = Path(folder)
    if not is_adapted(model):
        save_whole(model, folder)
        return
    folder.mkdir(parents=True, exist_ok=True)
    parameters = dict(model.named_parameters())
    weights = {
        _outside(name): parameters[name].detach().cpu().contiguous()
        for name in _trained_names(model)
    }
    save_file(weights, folder / ADAPTER_WEIGHTS, metadata={"format": "pt"})
    stored = {**_stored(model), "modules_to_save": head_names(model) or None}
    stored["inference_mode"] = True
    (folder / ADAPTER_CONFIG).write_text(json.dumps(stored, indent=2, sort_keys=True) + "\n")
    model.config.architectures = [type(model).__name__]
    model.config.save_pretrained(folder)
    if getattr(model, "generation_config", None) is not None and model.can_generate():
        model.generation_config.save_pretrained(folder)
    base = Path(model.peft_config[ADAPTER_NAME].base_model_name_or_path)
    link_base(base, folder / BASE_FOLDER)


def link_base(base: Path, folder: Path) -> None:
    """The config and weights of `base` under `folder`, hard-linked where the disk can."""
    folder.mkdir()
    for pattern in ("*.json", "*.safetensors", "*.py"):
        for path in sorted(base.glob(pattern)):
            if "tokenizer" in path.name or path.name in ("manifest.json", "curves.json"):
                continue
            link_or_copy(path, folder / path.name)


def merge_adapter(model: Any) -> Any:
    """Add the adapter in `model` to its weights (rounded once) and take it out, in place.

    What is left is a plain model of transformers, every weight of which learns. Raises CheckError
    where it would not say the same, with the layers that are to blame.
    """
    if is_adapted(model):
        from chatllama_pipeline.models.adapters.merging import merge, unmergeable

        culprits = unmergeable(model)
        if culprits or not merge(model):
            raise CheckError(
                f"{type(model).__name__} says something else with its adapter merged (layers "
                f"{', '.join(culprits) or 'unknown'}): train it with other layers in "
                "lora.target_modules"
            )
        del model.peft_config
    return model.requires_grad_(True)


def _stored(model: Any) -> dict[str, Any]:
    """The adapter's config as JSON data.

    A path has no place in a version: its hash would differ from machine to machine.
    """
    config = {**model.peft_config[ADAPTER_NAME].to_dict(), "base_model_name_or_path": BASE_FOLDER}
    return {key: sorted(v) if isinstance(v, set) else v for key, v in config.items()}


def _config(stored: dict[str, Any]) -> LoraConfig:
    from peft import LoraConfig

    config: LoraConfig = LoraConfig.from_peft_type(**stored)
    return config


def _task_type(model: Any) -> str:
    if model.get_output_embeddings() is None:
        return SCORES
    return "SEQ_2_SEQ_LM" if model.config.is_encoder_decoder else "CAUSAL_LM"


def _inject(model: Any, config: LoraConfig) -> None:
    from peft import inject_adapter_in_model

    with warnings.catch_warnings():
        # Of tied layers, experts and transposed weights: a trial tells what comes of them.
        warnings.simplefilter("ignore")
        inject_adapter_in_model(config, model, ADAPTER_NAME)
    model.peft_config = {ADAPTER_NAME: config}
    # A new adapter's dropout is on, whatever the model around it does.
    model.train(model.training)


def _trained_names(model: Any) -> list[str]:
    heads = head_names(model)
    return [
        name
        for name, _ in model.named_parameters()
        if ".lora_" in name or name.split(".")[0] in heads
    ]


def _outside(name: str) -> str:
    return PREFIX + name.replace(f".{ADAPTER_NAME}.", ".").removesuffix(f".{ADAPTER_NAME}")
