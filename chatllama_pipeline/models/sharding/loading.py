"""A model's weights, of which each process reads from the files the part that it holds.

The model is made without weights, and each parameter is shared out before it has any: so no
process ever has more than its parts. Where the files' tensors aren't the model's own (experts,
which are put together as they are read; a model's own code, which may ask for numbers),
transformers loads it under DeepSpeed's care: parameter by parameter, each whole for a moment.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import GenerationConfig
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import WeightConverter
from transformers.utils import GENERATION_CONFIG_NAME

from chatllama_pipeline.models.sharding.files import Stored, stored_in
from chatllama_pipeline.models.sharding.parts import fill
from chatllama_pipeline.store.model_files import has_adapter


@dataclass(frozen=True)
class Sharing:
    """How processes share out what they load: DeepSpeed's `zero_optimization`, of stage 3."""

    zero: dict[str, Any]

    @property
    def settings(self) -> dict[str, Any]:
        """As a whole configuration of DeepSpeed's."""
        return {"train_micro_batch_size_per_gpu": 1, "zero_optimization": self.zero}


def unless_adapted(folder: Path | str, sharing: Sharing | None) -> Sharing | None:
    """`sharing`, but none of an adapter, which is merged into weights that are whole."""
    return None if has_adapter(folder) else sharing


def load_shared(
    kind: Any, folder: Path, sharing: Sharing, **arguments: Any
) -> tuple[Any, list[str]]:
    """`kind.from_pretrained(folder, **arguments)` in parts, and the names that no file has.

    What the files lack is drawn with torch's global generator and stays whole in every process.
    All processes take part.
    """
    model = _without_weights(kind, **arguments)
    found = None if model is None else _sources(model, stored_in(folder))
    if model is None or found is None:
        from transformers.integrations import HfDeepSpeedConfig

        # While it lives, whatever transformers loads is shared out.
        alive = HfDeepSpeedConfig(sharing.settings)
        model, info = kind.from_pretrained(str(folder), output_loading_info=True, **arguments)
        del alive
        return model, list(info["missing_keys"])
    missing = _share_out(model, found, sharing)
    model.initialize_weights()
    _on_device(model)
    if model.can_generate() and (folder / GENERATION_CONFIG_NAME).is_file():
        model.generation_config = GenerationConfig.from_pretrained(folder)
    return model.eval(), missing


def _without_weights(kind: Any, config: Any, dtype: torch.dtype, **code: bool) -> Any | None:
    """A model whose weights take no memory; None where its code asks for numbers."""
    if code.get("trust_remote_code"):
        return None
    make = kind.from_config if hasattr(kind, "from_config") else kind._from_config
    with torch.device("meta"):
        return make(config, dtype=dtype)


def _sources(model: Any, stored: dict[str, Stored]) -> dict[int, Stored] | None:
    """Where each of the model's tensors stands, by identity; None where files have it otherwise.

    Heads alone may be missing.
    """
    if any(isinstance(one, WeightConverter) for one in get_model_conversion_mapping(model)):
        return None
    prefix = f"{model.base_model_prefix}."
    found, lacking = {}, {}
    for name, tensor in model.state_dict(keep_vars=True).items():
        named = (name, name.removeprefix(prefix), prefix + name)
        source = next((stored[one] for one in named if one in stored), None)
        if source is not None and source.shape == tuple(tensor.shape):
            found[id(tensor)] = source
        elif name.startswith(prefix):
            lacking[id(tensor)] = name
    return None if lacking.keys() - found.keys() else found


def _share_out(model: Any, found: dict[int, Stored], sharing: Sharing) -> list[str]:
    """Replace each tensor of a model without weights; names of parameters that nobody stored."""
    from deepspeed.runtime.zero import Init

    init = Init(config_dict_or_path=sharing.settings)
    missing = [n for n, parameter in model.named_parameters() if id(parameter) not in found]
    made: dict[int, Any] = {}
    for module in model.modules():
        for held, replace in ((module._parameters, _parameter), (module._buffers, _buffer)):
            for name, old in held.items():
                if old is not None and old.is_meta and id(old) not in made:
                    # The old one too, lest another gets its identity.
                    made[id(old)] = old, replace(old, found.get(id(old)), init)
                if old is not None and id(old) in made:
                    held[name] = made[id(old)][1]
    return missing


def _parameter(old: nn.Parameter, source: Stored | None, init: Any) -> nn.Parameter:
    """In parts, where it is stored; else whole, and to be drawn."""
    place = "cpu" if source is None else init.local_device
    # Never touched before it is shared out, so that a CPU has no memory of it.
    fresh: Any = nn.Parameter(torch.empty(old.shape, dtype=old.dtype, device=place))
    if source is not None:
        # As `zero.Init` does to a module's own, but for the broadcast, which would fill it.
        init._convert_to_deepspeed_param(fresh)
        fresh.partition()
        fill(fresh, source.read)
        fresh._is_hf_initialized = True
    return fresh  # type: ignore[no-any-return]


def _buffer(old: torch.Tensor, source: Stored | None, _: Any) -> torch.Tensor:
    fresh: Any = torch.empty(old.shape, dtype=old.dtype)
    if source is not None and old.numel():
        fresh.copy_(source.read().view(old.shape))
        fresh._is_hf_initialized = True
    return fresh  # type: ignore[no-any-return]


def _on_device(model: Any) -> None:
    """Put what is whole where the parts are used."""
    from deepspeed.accelerator import get_accelerator

    model.to(get_accelerator().current_device_name())
