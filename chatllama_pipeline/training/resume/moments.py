"""AdamW's moments of each parameter by its name, from a state of any layout into any other.

A plain optimizer holds them whole. Under DeepSpeed each process has a part of them in flat tensors,
and saves that part in a file of its own: there the pieces of a parameter are put together, and of
the whole each process takes what is its part in the layout that goes on.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from chatllama_pipeline.errors import StoreError
from chatllama_pipeline.launch.hidden import reveal

STEP, FIRST, SECOND, WEIGHT = "step", "exp_avg", "exp_avg_sq", "fp32"
KINDS = (FIRST, SECOND, WEIGHT)
# Flat tensors by what they are, a parameter's name, and where in them a piece of it stands.
Pieces = Iterator[tuple[dict[str, Any], str, slice]]
RANK = re.compile(r"zero_pp_rank_(\d+)_mp_rank_00_optim_states\.pt$")


@dataclass
class Moments:
    """Pieces of flat float32 tensors, in order, by what they are and by the parameter's name.

    `steps` are those that the optimizer has made; WEIGHT is what bfloat16 weights are rounded from.
    """

    steps: float = 0.0
    pieces: dict[str, dict[str, list[Tensor]]] = field(
        default_factory=lambda: {kind: {} for kind in KINDS}
    )

    def add(self, name: str, found: Mapping[str, Any], place: slice = slice(None)) -> None:
        """The next piece of a parameter: what stands at `place` in each of the flat tensors."""
        for kind, pieces in self.pieces.items():
            if kind in found:
                pieces.setdefault(name, []).append(found[kind].flatten()[place])
        self.steps = max(self.steps, float(found.get(STEP, 0)))

    def whole(self, kind: str, name: str) -> Tensor | None:
        """The whole tensor, flat; None of a parameter that never had a gradient."""
        found = self.pieces[kind].get(name)
        return None if found is None else torch.cat(found)


def of_plain(
    state: Mapping[str, Any], order: Sequence[str], weights: Mapping[str, Tensor]
) -> Moments:
    """Those of a plain AdamW's `state_dict`, whose parameters have the names in `order`."""
    found = Moments()
    for number, entry in state["state"].items():
        name = order[number]
        found.add(name, {**entry, WEIGHT: weights[name]})
    return found


def of_shards(folder: Path) -> Moments:
    """Those that DeepSpeed's processes have saved in `folder`, at any ZeRO stage.

    Raises StoreError where they don't hold them as its stages do.
    """
    found = Moments()
    files = {int(m[1]): path for path in folder.iterdir() if (m := RANK.search(path.name))}
    for rank in sorted(files):
        saved = _read(files[rank])["optimizer_state_dict"]
        try:
            pieces = _of_weights(saved, folder, rank) if "fp32_flat_groups" in saved else None
            for flat, name, place in pieces or _of_gradients(saved):
                found.add(name, flat, place)
        except (AttributeError, KeyError, TypeError) as error:
            raise StoreError(
                f"{files[rank]} holds AdamW's moments otherwise than ZeRO's stages do ({error!r})"
            ) from error
    return found


def _of_gradients(saved: Mapping[str, Any]) -> Pieces:
    """What stages 1 and 2 save: where each parameter's piece begins is told beside it."""
    state = saved["base_optimizer_state"]["state"]
    for number, addresses in enumerate(saved["param_slice_mappings"]):
        flat = {**state.get(number, {}), WEIGHT: saved["single_partition_of_fp32_groups"][number]}
        for name, at in addresses.items():
            yield flat, name, slice(at.start, at.start + at.numel)


def _of_weights(saved: Mapping[str, Any], folder: Path, rank: int) -> Pieces:
    """What stage 3 saves: of each parameter as much as of any other's, the last rank's padded."""
    state, ranks = saved["optimizer_state_dict"]["state"], saved["partition_count"]
    (beside,) = folder.glob(f"*zero_pp_rank_{rank}_mp_rank_00_model_states.pt")
    for number, shapes in enumerate(_read(beside)["param_shapes"]):
        flat = {**state.get(number, {}), WEIGHT: saved["fp32_flat_groups"][number]}
        start = 0
        for name, shape in shapes.items():
            part = math.ceil(shape.numel() / ranks)
            own = min(part, max(0, shape.numel() - rank * part))
            yield flat, name, slice(start, start + own)
            start += part


def _read(path: Path) -> Any:
    """DeepSpeed's own classes stand in it; nobody else may write there, and hashes were checked."""
    reveal("deepspeed")  # which a training without it would not find
    return torch.load(path, map_location="cpu", weights_only=False, mmap=True)


def into_plain(moments: Moments, optimizer: Any, names: Mapping[int, str]) -> None:
    """Have a plain AdamW go on by them; `names` are those of parameters by identity."""
    parameters = [each for group in optimizer.param_groups for each in group["params"]]
    state = {}
    for number, parameter in enumerate(parameters):
        found = {kind: moments.whole(kind, names[id(parameter)]) for kind in KINDS}
        shaped = {
            kind: flat.view(parameter.shape) for kind, flat in found.items() if flat is not None
        }
        if (weight := shaped.pop(WEIGHT, None)) is not None:
            parameter.data.copy_(weight)
        if shaped:
            state[number] = {STEP: torch.tensor(moments.steps), **shaped}
    optimizer.load_state_dict({**optimizer.state_dict(), "state": state})


def into_shards(moments: Moments, optimizer: Any, names: Mapping[int, str]) -> None:
    """Have an optimizer of DeepSpeed's go on by them, each process by its part.

    Raises StoreError for one that is none of ZeRO's.
    """
    beneath = optimizer.optimizer
    fused = bool(beneath.defaults.get("fused"))
    for flat, parts in _flat_parts(optimizer):
        state = {kind: torch.zeros_like(flat) for kind in (FIRST, SECOND)}
        for kind, target in (*state.items(), (WEIGHT, flat.data)):
            for part in parts:
                whole = moments.whole(kind, names[id(part.parameter)])
                if whole is not None:
                    piece = whole[part.first : part.first + part.size]
                    target[part.start : part.start + part.size].copy_(piece)
        if moments.steps:
            steps = torch.tensor(moments.steps, device=flat.device if fused else "cpu")
            # torch counts in a tensor, DeepSpeed's own AdamW in a plain number.
            counted = steps if isinstance(beneath, torch.optim.AdamW) else int(moments.steps)
            beneath.state[flat] = {STEP: counted, **state}


class Part(NamedTuple):
    """Where in a flat tensor `size` elements of a parameter stand, its `first` and those behind."""

    parameter: Any
    start: int
    first: int
    size: int


def _flat_parts(optimizer: Any) -> Iterator[tuple[Tensor, list[Part]]]:
    """This process's flat tensors, and what stands in each."""
    for flat_tensors, their_parameters, parts in _FLAT:
        if hasattr(optimizer, flat_tensors):
            tensors, groups = getattr(optimizer, flat_tensors), getattr(optimizer, their_parameters)
            for flat, parameters in zip(tensors, groups, strict=True):
                yield flat, parts(parameters)
            return
    kind = type(optimizer).__name__
    raise StoreError(f"DeepSpeed's {kind} takes up nothing that was saved otherwise")


def _parts_of_weights(parameters: Sequence[Any]) -> list[Part]:
    """At stage 3."""
    parts, start = [], 0
    for parameter in parameters:
        size = parameter.partition_numel()
        first = parameter.ds_zero_partition_rank * size
        own = min(size, max(0, parameter.ds_numel - first))
        parts.append(Part(parameter, start, first, own))
        start += size
    return parts


def _parts_of_gradients(parameters: Sequence[Any]) -> list[Part]:
    """At stages 1 and 2: DeepSpeed knows which elements of a parameter fell to this process."""
    parts = []
    for parameter in parameters:
        if parameter._hp_mapping is not None:
            here = parameter._hp_mapping.hp_fragment_address
            there = parameter._hp_mapping.lp_fragment_address
            parts.append(Part(parameter, here.start, there.start, here.numel))
    return parts


# Where each of DeepSpeed's optimizers has its flat tensors, and whose they are: stage 3, stages 1
# and 2, and stage 1 where bfloat16 gradients are summed in float32.
_FLAT = (
    ("fp32_partitioned_groups_flat", "fp16_groups", _parts_of_weights),
    ("single_partition_of_fp32_groups", "bit16_groups", _parts_of_gradients),
    ("fp32_groups_flat_partition", "bf16_groups", _parts_of_gradients),
)
