"""Which layers an adapter goes into: what the settings name, or what suits the model's family."""

from __future__ import annotations

import copy
import re
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from chatllama_pipeline.errors import SettingsError
from chatllama_pipeline.models.sharding.parts import whole
from chatllama_pipeline.settings import LoraSettings

if TYPE_CHECKING:
    from peft import LoraConfig

ALL_LINEAR = "all-linear"
# A state-space mixer has this parameter. Fused kernels read the weights of its layers themselves:
# an adapter counts at the first of them alone.
STATE_SPACE, CALLED = "A_log", "in_proj"


def targets(model: Any, lora: LoraSettings, section: str) -> list[str] | str:
    """peft's `target_modules`: each that `section` names must be there; else the family's.

    Raises SettingsError, with the layers there are.
    """
    named = lora.target_modules
    if named is None:
        from peft.utils.constants import TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING

        usual = TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING.get(model.config.model_type)
        return usual if usual and _hit(model, usual) else _linear(model)
    if missing := _missing(model, named):
        raise SettingsError(
            f"{section}.lora.target_modules: {type(model).__name__} has no layer "
            f"{', '.join(missing)}; those there are: {in_words(model)}"
        )
    # With experts, all is more than the linear layers.
    return _linear(model) if named == ALL_LINEAR and not _becomes_experts(model, named) else named


def refuse_dropout(model: Any, config: LoraConfig, section: str) -> None:
    """Raise SettingsError where `config` drops out what goes into an adapter of experts.

    Their weights are one parameter, to which peft adds the adapter before any input meets it.
    """
    experts = experts_in(model, config)
    if experts and config.lora_dropout:
        raise SettingsError(
            f"{section}.lora.lora_dropout: {config.lora_dropout} can't be had with an adapter of "
            f"{', '.join(experts)}, which hold the weights of all experts: set "
            f"{section}.lora.lora_dropout: 0, or name other layers in "
            f"{section}.lora.target_modules: {', '.join(linear_names(model))}"
        )


def experts_in(model: Any, config: LoraConfig) -> list[str]:
    """The parameters of all experts that peft makes of the targets of `config`."""
    from peft.utils.transformers_weight_conversion import convert_peft_config_for_transformers

    tried = copy.deepcopy(config)
    convert_peft_config_for_transformers(tried, model, None)
    return sorted(tried.target_parameters or [])


def linear_names(model: Any) -> list[str]:
    """The last parts of the names of the layers that an adapter can go into, without heads."""
    return sorted({_leaf(name) for name in _linear(model)})


def in_words(model: Any) -> str:
    """The layers to choose from."""
    return f"{', '.join(linear_names(model))} (or {ALL_LINEAR})"


def head_names(model: Any) -> list[str]:
    """The children of a scoring model that are no part of its backbone."""
    if model.get_output_embeddings() is not None:
        return []
    return [name for name, _ in model.named_children() if name != model.base_model_prefix]


@torch.no_grad()
def is_linear(module: nn.Module) -> bool:
    """Whether a module computes with a weight and a bias alone, by whatever forward of its own.

    Falcon's linear layers do; a router may be one and more.
    """
    if not isinstance(module, nn.Linear) or type(module).forward is nn.Linear.forward:
        return isinstance(module, nn.Linear)
    ones = module.weight.new_ones(1, module.in_features)
    try:
        with whole(module.parameters(recurse=False)):
            found = module(ones)
            expected = nn.functional.linear(ones, module.weight, module.bias)
    except Exception:  # a family's own code may want other inputs
        return False
    return isinstance(found, torch.Tensor) and torch.allclose(found, expected)


def _linear(model: Any) -> list[str]:
    """Names of the linear layers within the backbone whose adapter counts as their weight does.

    Those of experts are left out: peft would take all of them, as one parameter without dropout.
    """
    heads, output = set(head_names(model)), model.get_output_embeddings()
    names = [
        name
        for name, module in model.named_modules()
        if (is_linear(module) or isinstance(module, Conv1D))
        and module is not output
        and name.split(".")[0] not in heads
        and not _read_by_kernels(model, name)
    ]
    fused = {leaf for leaf in {_leaf(name) for name in names} if _becomes_experts(model, leaf)}
    return [name for name in names if _leaf(name) not in fused]


def _leaf(name: str) -> str:
    return name.rpartition(".")[2]


def _read_by_kernels(model: Any, name: str) -> bool:
    parent = model.get_submodule(name.rpartition(".")[0])
    return hasattr(parent, STATE_SPACE) and not _leaf(name).startswith(CALLED)


def _becomes_experts(model: Any, target: str) -> bool:
    from peft import LoraConfig

    modules = target if target == ALL_LINEAR else [target]
    try:
        return bool(experts_in(model, LoraConfig(target_modules=modules)))
    except ValueError:  # one part of what is fused, without the other
        return True


def _hit(model: Any, usual: list[str] | str) -> bool:
    each = [usual] if isinstance(usual, str) else [[leaf] for leaf in usual]
    return any(not _missing(model, one) for one in each)


def _missing(model: Any, named: list[str] | str) -> list[str]:
    """Of the targets, those that no layer answers to."""
    if named == ALL_LINEAR:
        return []
    modules = list(model.named_modules())
    if isinstance(named, str):
        return [] if any(re.fullmatch(named, name) for name, _ in modules) else [named]
    kinds = (nn.Linear, Conv1D, nn.Embedding)
    names = [f".{name}" for name, module in modules if isinstance(module, kinds)]
    return [
        target
        for target in named
        if not any(name.endswith(f".{target}") for name in names)
        and not _becomes_experts(model, target)
    ]
