"""Several models on one set of weights: separate modules, the same tensors beneath."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from chatllama_pipeline.models.adapters.targets import head_names
from chatllama_pipeline.models.heads import draw_head, scoring_class
from chatllama_pipeline.models.loading import load_config


def shared_copy(model: Any, own: Sequence[str] = ()) -> Any:
    """A model of its own whose tensors are those of `model`, but for the children in `own`.

    An adapter put into the one is not in the other. The parameters are the same objects: only
    frozen ones may be shared.
    """
    tensors = [*model.named_parameters(), *model.named_buffers()]
    kept = {id(t): t for name, t in tensors if name.split(".")[0] not in own}
    return copy.deepcopy(model, kept)


def scoring_on(language: Any, folder: Path | str) -> Any | None:
    """A scoring model with a head of random weights on the backbone of the `language` model.

    Config and class are those of the model in `folder`. None where its class stands on another
    backbone than `language` has (T5's, DeBERTa's).
    """
    config = load_config(folder)
    config.num_labels = 1
    with torch.device("meta"):
        kind = scoring_class(config, folder)
        model = kind.from_config(config) if hasattr(kind, "from_config") else kind(config)
    backbone = language.base_model
    if type(model.base_model) is not type(backbone) or backbone is language:
        return None
    setattr(model, model.base_model_prefix, shared_copy(backbone))
    for name in head_names(model):
        head = getattr(model, name).to_empty(device=language.device)
        if not isinstance(head, nn.Linear):
            return None
        draw_head(head)
    return model.eval()
