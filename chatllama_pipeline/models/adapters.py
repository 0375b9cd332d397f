"""LoRA adapters by peft, and the version folder of a model that was trained through one.

    <version>/adapter_config.json, adapter_model.safetensors    the adapter, in peft's own format
    <version>/config.json, tokenizer, ...                       as of any model
    <version>/base/                                             the weights it stands on

The base's files are hard links to those of the version they came from (copies where the disk
can't link): each version is whole, and the weights stand on the disk once.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, inject_adapter_in_model
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils.constants import TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING
from safetensors.torch import load_file, save_file
from torch import nn
from transformers.pytorch_utils import Conv1D

from chatllama_pipeline.errors import SettingsError
from chatllama_pipeline.models.layout import (
    ADAPTER_CONFIG,
    ADAPTER_WEIGHTS,
    BASE_FOLDER,
    base_folder,
)
from chatllama_pipeline.pool import link_or_copy
from chatllama_pipeline.settings import LoraSettings

ALL_LINEAR = "all-linear"
# peft's own prefix of the names in an adapter's file.
PREFIX = "base_model.model."
# The name that peft gives a model's only adapter.
NAME = "default"


def add_adapter(model: Any, lora: LoraSettings, section: str, base: Path | str, seed: int) -> None:
    """Freeze `model` and put a fresh adapter into it, drawn from `seed`; its output stays.

    A scoring model's head goes on being trained. `base` is the folder of the weights beneath.
    Raises SettingsError, with the layers there are, for a target that `model` doesn't have.
    """
    targets = _targets(model, lora, section)
    config = LoraConfig(
        r=lora.r,
        lora_alpha=lora.lora_alpha,
        lora_dropout=lora.lora_dropout,
        target_modules=targets,
        use_rslora=lora.use_rslora,
        fan_in_fan_out=any(isinstance(module, Conv1D) for module in model.modules()),
        task_type=_task_type(model),
        base_model_name_or_path=str(base),
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        _inject(model, config)
    set_trainable(model)


def load_adapter(model: Any, folder: Path | str) -> None:
    """Put the adapter in `folder`, with its head if it has one, into `model`, frozen.

    `model` holds the raw base. An adapter of a language model may go under a scoring model: the
    head is then left as it is.
    """
    folder = Path(folder)
    stored = json.loads((folder / ADAPTER_CONFIG).read_text())
    stored |= {"modules_to_save": None, "inference_mode": False, "task_type": _task_type(model)}
    config = LoraConfig.from_peft_type(**stored)
    config.base_model_name_or_path = str(base_folder(folder))
    with torch.random.fork_rng(devices=[]):
        _inject(model, config)
    parameters = dict(model.named_parameters())
    weights = load_file(folder / ADAPTER_WEIGHTS)
    with torch.no_grad():
        for outside, tensor in weights.items():
            name = _inside(outside)
            # T5's language model has no prefix before its backbone, its scoring model has.
            within = name if name in parameters else f"{model.base_model_prefix}.{name}"
            parameters[within].copy_(tensor)
    model.requires_grad_(False)


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
    every = sum(parameter.numel() for parameter in model.parameters())
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    return f"trains {trained:,} of {every:,} weights ({100 * trained / every:.2f} %)"


def is_adapted(model: Any) -> bool:
    """Whether `model` has an adapter in it."""
    return any(isinstance(module, BaseTunerLayer) for module in model.modules())


def switch_adapter(model: Any, on: bool) -> None:
    """Let the adapter count or not: without it a model gives its base's outputs, bit for bit."""
    for module in model.modules():
        if isinstance(module, BaseTunerLayer):
            module.enable_adapters(on)


def save_model(model: Any, folder: Path | str) -> None:
    """Write `model` as a whole version folder: plain, or adapter with its base beside it."""
    folder = Path(folder)
    if not is_adapted(model):
        model.save_pretrained(folder)
        return
    folder.mkdir(parents=True, exist_ok=True)
    parameters = dict(model.named_parameters())
    config = model.peft_config[NAME]
    weights = {
        _outside(name): parameters[name].detach().cpu().contiguous()
        for name in _trained_names(model)
    }
    save_file(weights, folder / ADAPTER_WEIGHTS, metadata={"format": "pt"})
    stored = {
        **config.to_dict(),
        # A path has no place in a version: its hash would differ from machine to machine.
        "base_model_name_or_path": BASE_FOLDER,
        "modules_to_save": head_names(model) or None,
        "inference_mode": True,
    }
    plain = {key: sorted(v) if isinstance(v, set) else v for key, v in stored.items()}
    (folder / ADAPTER_CONFIG).write_text(json.dumps(plain, indent=2, sort_keys=True) + "\n")
    model.config.architectures = [type(model).__name__]
    model.config.save_pretrained(folder)
    if getattr(model, "generation_config", None) is not None and model.can_generate():
        model.generation_config.save_pretrained(folder)
    link_base(Path(config.base_model_name_or_path), folder / BASE_FOLDER)


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

    What is left is a plain model of transformers, every weight of which learns.
    """
    found = [(n, m) for n, m in model.named_modules() if isinstance(m, BaseTunerLayer)]
    for name, layer in found:
        layer.merge()
        parent, _, child = name.rpartition(".")
        setattr(model.get_submodule(parent), child, layer.get_base_layer())
    if found:
        del model.peft_config
    return model.requires_grad_(True)


def linear_names(model: Any) -> list[str]:
    """The last parts of the names of the layers that an adapter can go into, without heads."""
    heads = set(head_names(model))
    output = model.get_output_embeddings()
    return sorted(
        {
            name.rsplit(".", 1)[-1]
            for name, module in model.named_modules()
            if isinstance(module, nn.Linear | Conv1D)
            and module is not output
            and name.split(".")[0] not in heads
        }
    )


def _targets(model: Any, lora: LoraSettings, section: str) -> list[str] | str:
    """peft's `target_modules`; each that is named must be there."""
    known = linear_names(model)
    targets = lora.target_modules
    if targets is None:
        usual = TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING.get(model.config.model_type)
        return usual or ALL_LINEAR
    if isinstance(targets, str) and targets != ALL_LINEAR:
        names = [name for name, _ in model.named_modules()]
        missing = [] if any(re.fullmatch(targets, name) for name in names) else [targets]
    elif isinstance(targets, str):
        missing = []
    else:
        names = [name for name, m in model.named_modules() if isinstance(m, nn.Linear | Conv1D)]
        missing = [t for t in targets if not any(f".{name}".endswith(f".{t}") for name in names)]
    if missing:
        raise SettingsError(
            f"{section}.lora.target_modules: {type(model).__name__} has no layer "
            f"{', '.join(missing)}; those there are: {', '.join(known)} (or {ALL_LINEAR})"
        )
    return targets


def _task_type(model: Any) -> str:
    if model.get_output_embeddings() is None:
        return "SEQ_CLS"
    return "SEQ_2_SEQ_LM" if model.config.is_encoder_decoder else "CAUSAL_LM"


def _inject(model: Any, config: LoraConfig) -> None:
    inject_adapter_in_model(config, model, NAME)
    model.peft_config = {NAME: config}
    # A new adapter's dropout is on, whatever the model around it does.
    model.train(model.training)


def head_names(model: Any) -> list[str]:
    """The children of a scoring model that are no part of its backbone."""
    if model.get_output_embeddings() is not None:
        return []
    return [name for name, _ in model.named_children() if name != model.base_model_prefix]


def _trained_names(model: Any) -> list[str]:
    heads = head_names(model)
    return [
        name
        for name, _ in model.named_parameters()
        if ".lora_" in name or name.split(".")[0] in heads
    ]


def _outside(name: str) -> str:
    return PREFIX + name.replace(f".{NAME}.", ".").removesuffix(f".{NAME}")


def _inside(name: str) -> str:
    """The parameter's name in a model, of a name in an adapter's file."""
    plain = name.removeprefix(PREFIX)
    return re.sub(r"\.(lora_[A-Za-z_]+)\.", rf".\1.{NAME}.", plain)
