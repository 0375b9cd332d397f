"""The three kinds of models there are, by how they read a prompt and a reply."""

from __future__ import annotations

import copy
import inspect
from enum import Enum
from typing import Any

from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING_NAMES


class Kind(Enum):
    """CAUSAL reads both in one row, ENCODER_DECODER (Flan-T5) the prompt first, then the reply.

    ENCODER (DeBERTa) reads both at once and pools them into one score: it cannot write.
    """

    CAUSAL = "decoder-only"
    ENCODER_DECODER = "encoder-decoder"
    ENCODER = "encoder"


def kind_of(config: Any) -> Kind:
    """The kind of the model that a transformers config describes."""
    if config.is_encoder_decoder:
        return Kind.ENCODER_DECODER
    if config.model_type in MODEL_FOR_MASKED_LM_MAPPING_NAMES:
        return Kind.ENCODER
    return Kind.CAUSAL


def plain(model: Any) -> Any:
    """`model` without the wrapper that adapters (peft) put around it; itself where there is none.

    Adapters live inside the layers, so what is left computes the same.
    """
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def takes(model: Any, argument: str) -> bool:
    """Whether the model's forward names `argument` among its own."""
    return argument in inspect.signature(plain(model).forward).parameters


def takes_positions(model: Any) -> bool:
    """Whether the model takes `position_ids`; those with relative positions alone don't."""
    return takes(model, "position_ids")


def score_of(kind: Any, config: Any) -> Any:
    """What the model class `kind` scores its hidden states by, without weights; None if nothing.

    It is looked for in a model of one layer, where the family bears that: many take long to make.
    """
    import torch

    shallow = copy.deepcopy(config)
    with torch.device("meta"):
        try:
            shallow.num_hidden_layers = 1
            model = kind(shallow)
        except Exception:  # of layers of several kinds, a family may want them all
            model = kind(config)
    return getattr(model, "score", None)
