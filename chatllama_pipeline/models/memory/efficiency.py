"""What makes a model smaller or faster to train, without another result."""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch.utils.checkpoint import checkpoint
from transformers.modeling_layers import GradientCheckpointingLayer

from chatllama_pipeline.errors import SettingsError
from chatllama_pipeline.settings import SupervisedSection, TrainedSection


def make_efficient(model: Any, settings: TrainedSection, section: str, checkpointing: bool) -> None:
    """Attention, checkpointing (as the memory plan decided) and compiling, as `section` asks.

    The last step before training: what is made of `model` later would not share its layers.
    """
    use_attention(model, settings, section)
    if checkpointing:
        checkpoint_activations(model, section)
    if isinstance(settings, SupervisedSection) and settings.compile:
        compile_model(model)


def use_attention(model: Any, settings: TrainedSection, section: str) -> None:
    """Let `model` attend by the implementation that `section` asks for, if it does.

    Raises SettingsError where the model or this machine hasn't got it.
    """
    if settings.attention is None:
        return
    try:
        model.set_attn_implementation(settings.attention)
    except (ImportError, ValueError, RuntimeError) as error:
        raise SettingsError(
            f"{section}.attention: {settings.attention} can't be used by {type(model).__name__} "
            f"here ({str(error).splitlines()[0]}); leave it out, or use sdpa"
        ) from error


def checkpoint_activations(model: Any, section: str) -> None:
    """Keep each layer's input alone, and compute the layer again in the backward pass.

    Chen et al. 2016. Works in eval mode too, unlike transformers' own switch; passes without a
    gradient (rollouts, validation) are as they were. Raises SettingsError where the model has no
    layers that can be computed twice.
    """
    layers = [m for m in model.modules() if isinstance(m, GradientCheckpointingLayer)]
    if not layers:
        raise SettingsError(
            f"{section}.activation_checkpointing: {type(model).__name__} does not support it; "
            "set it to false and lower micro_batch_size"
        )
    for layer in layers:
        layer.forward = functools.partial(_again, layer.forward)


def _again(forward: Any, *arguments: Any, **named: Any) -> Any:
    if not torch.is_grad_enabled():
        return forward(*arguments, **named)
    return checkpoint(forward, *arguments, use_reentrant=False, **named)


def compile_model(model: Any) -> None:
    """Compile the backbone's forward in place, for batches of any size; names stay as they are."""
    model.base_model.compile(dynamic=True)
