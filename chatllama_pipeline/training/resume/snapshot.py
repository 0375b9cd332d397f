"""What a state holds of a training, and how it comes back, in one process or several."""

from __future__ import annotations

import contextlib
import json
import os
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list

from chatllama_pipeline.errors import StoreError
from chatllama_pipeline.models.adapters.lora import trained_state
from chatllama_pipeline.models.memory.means import Means
from chatllama_pipeline.progress import MEGABYTE, growing, watching
from chatllama_pipeline.settings.deepspeed_config import DeepSpeedPlan
from chatllama_pipeline.training.resume.moments import (
    Moments,
    into_plain,
    into_shards,
    of_plain,
    of_shards,
)
from chatllama_pipeline.training.resume.state import States

WEIGHTS, OPTIMIZER, COUNTS, BEST = "weights.pt", "optimizer.pt", "counts.json", "best.pt"
# The folder of what DeepSpeed saves, and its name for the state in it.
DEEPSPEED, TAG = "deepspeed", "state"
# Weights and AdamW's two moments, all float32.
BYTES_PER_WEIGHT = 12


@dataclass(frozen=True)
class Layout:
    """How a training is spread: only in the same layout does it continue exactly.

    `in_files`: the optimizer's state stands in files of each process's own.
    """

    processes: int
    zero_stage: int | None
    in_files: bool = False

    @classmethod
    def of(cls, means: Means) -> Layout:
        return cls._by(means.processes, means.deepspeed if means.zero_stage else None)

    @classmethod
    def prepared_by(cls, accelerator: Accelerator) -> Layout:
        plugin = accelerator.state.deepspeed_plugin
        plan = DeepSpeedPlan(plugin.deepspeed_config) if plugin else None
        return cls._by(accelerator.num_processes, plan)

    @classmethod
    def _by(cls, processes: int, plan: DeepSpeedPlan | None) -> Layout:
        if plan is None:
            return cls(processes, None)
        return cls(processes, plan.stage, plan.moments_in_files)

    def __str__(self) -> str:
        by = "" if self.zero_stage is None else f" at ZeRO stage {self.zero_stage}"
        files = " with the optimizer's state in files (nvme)" if self.in_files else ""
        return f"{self.processes} process{'es' if self.processes > 1 else ''}{by}{files}"


@dataclass(frozen=True)
class Snapshot:
    """A state found: its folder, the counts in it, and the layout it was saved in.

    `order` has the names of the parameters as a plain optimizer numbers them.
    """

    folder: Path
    counts: dict[str, Any]
    layout: Layout
    order: Sequence[str] = ()

    @classmethod
    def newest(cls, states: States, warn: Callable[[str], None]) -> Snapshot | None:
        """The newest whole state, or None."""
        folder = states.newest(warn)
        return None if folder is None else cls._of(folder)

    @classmethod
    def glimpsed(cls, run_folder: Path) -> Snapshot | None:
        """The newest state as it stands, nothing of it checked; None where it can't be read."""
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            newest = States(run_folder, {}).newest_first()[:1]
            return cls._of(newest[0]) if newest else None
        return None

    @classmethod
    def _of(cls, folder: Path) -> Snapshot:
        told = json.loads((folder / COUNTS).read_text())
        return cls(folder, told["counts"], Layout(**told["layout"]), told.get("order", []))

    def weights(self) -> dict[str, torch.Tensor]:
        """The consolidated weights, whatever the layout; read from the file as they are used."""
        weights: dict[str, torch.Tensor] = _load(self.folder / WEIGHTS, mmap=True)
        return weights

    def continued_in(self, layout: Layout) -> str | None:
        """What isn't exact about continuing in `layout`; None where everything is.

        Raises StoreError, the state untouched, where it can't be continued so.
        """
        if layout == self.layout:
            return None
        told = f"the state in {self.folder} was saved by {self.layout}"
        unnamed = self.layout.zero_stage is None and not self.order
        if self.layout.in_files or layout.in_files or (unnamed and layout.zero_stage is not None):
            raise StoreError(f"{told}, and {layout} can't go on from it: {self.cure}")
        return (
            f"{told} and continues with {layout}: sums are rounded in another order, and what is "
            "drawn while training (dropout) is drawn anew, so the result will not be exactly that "
            "of a run that was never stopped"
        )

    @property
    def cure(self) -> str:
        """What to do where another layout can't take it up."""
        return (
            f"continue with {self.layout} (compute.nodes, compute.processes, zero_stage or "
            f"ds_config.json), or remove {self.folder.parent} to train from the start"
        )

    def moments(self) -> Moments:
        """The optimizer's, by the names of the parameters."""
        if self.layout.zero_stage is not None:
            return of_shards(self.folder / DEEPSPEED / TAG)
        return of_plain(_load(self.folder / OPTIMIZER, mmap=True), self.order, self.weights())


@dataclass(frozen=True)
class Engine:
    """A training as accelerate prepared it; `model` is the plain module within `prepared`."""

    accelerator: Accelerator
    model: Any
    prepared: Any
    optimizer: Any
    layout: Layout
    scheduler: Any = None

    @property
    def is_main(self) -> bool:
        return bool(self.accelerator.is_main_process)

    def save(self, states: States, counts: dict[str, Any], warn: Callable[[str], None]) -> bool:
        """Write a state; all processes take part. False, with a warning, where the disk is full."""
        missing = [states.room_for(state_bytes(self.model)) if self.is_main else None]
        broadcast_object_list(missing)
        if missing[0] is not None:
            warn(f"state not saved, training goes on: {missing[0]}")
            return False
        begun = [str(states.begin()) if self.is_main else ""]
        broadcast_object_list(begun)
        folder = Path(begun[0])
        with watching("saves its state", state_bytes(self.model) / MEGABYTE, growing(folder), "MB"):
            self._write(folder, states, counts)
        if self.is_main:
            states.commit(folder)
        # A kill between the commit and here must not let one rank run ahead by a step.
        self.accelerator.wait_for_everyone()
        return True

    def _write(self, folder: Path, states: States, counts: dict[str, Any]) -> None:
        weights = self._trained_weights()
        if self.layout.zero_stage is not None:
            self.prepared.save_checkpoint(
                str(folder / DEEPSPEED), tag=TAG, exclude_frozen_parameters=True
            )
        torch.save(_random_state(), folder / f"random_{self.accelerator.process_index}.pt")
        if self.is_main:
            torch.save(weights, folder / WEIGHTS)
            if self.layout.zero_stage is None:
                torch.save(self.optimizer.state_dict(), folder / OPTIMIZER)
            if self.scheduler is not None:
                torch.save(self.scheduler.state_dict(), folder / "scheduler.pt")
            told = {"counts": counts, "layout": vars(self.layout), "order": self._order()}
            (folder / COUNTS).write_text(json.dumps(told))
            best = states.run_folder / BEST
            if best.exists():
                os.link(best, folder / BEST)
        self.accelerator.wait_for_everyone()

    def restore(self, snapshot: Snapshot) -> None:
        """Optimizer, schedule, randomness; plain weights were loaded before they were prepared.

        Raises StoreError, the state untouched, where this layout can't take up the moments.
        """
        folder, sharded = snapshot.folder, self.layout.zero_stage is not None
        if sharded and snapshot.layout == self.layout:
            self.prepared.load_checkpoint(
                str(folder / DEEPSPEED), tag=TAG, load_module_strict=False
            )
        elif not sharded and snapshot.layout.zero_stage is None:
            self.optimizer.load_state_dict(_load(folder / OPTIMIZER))
        else:
            self._take_up(snapshot)
        if self.scheduler is not None:
            self._take_up_schedule(_load(folder / "scheduler.pt"))
        if snapshot.layout == self.layout:
            _set_random_state(_load(folder / f"random_{self.accelerator.process_index}.pt"))

    def _take_up_schedule(self, saved: dict[str, Any]) -> None:
        """Go on where the schedule stood; all groups of a layout have the same rate.

        Another layout has others: DeepSpeed leaves out those that are empty, as that of an
        adapter's biases is.
        """
        own, rate = self.scheduler.state_dict(), saved["_last_lr"][0]
        of_groups = {key: own[key] for key in ("base_lrs", "lr_lambdas") if key in own}
        rates = [rate] * len(own["base_lrs"])
        self.scheduler.load_state_dict({**saved, **of_groups, "_last_lr": rates})
        for group in self.optimizer.param_groups:
            group["lr"] = rate

    def _take_up(self, snapshot: Snapshot) -> None:
        """Go on by the moments that another layout has saved."""
        try:
            if self.layout.zero_stage is None:
                into_plain(snapshot.moments(), self.optimizer, self._names())
            else:
                into_shards(snapshot.moments(), self.prepared.optimizer, self._names())
        except StoreError as error:
            raise StoreError(f"{error}: {snapshot.cure}") from error

    def _order(self) -> list[str]:
        """The names of the parameters as a plain optimizer numbers them."""
        if self.layout.zero_stage is not None:
            return []
        names, groups = self._names(), self.optimizer.param_groups
        return [names[id(parameter)] for group in groups for parameter in group["params"]]

    def _names(self) -> dict[int, str]:
        """Those of the parameters, by identity."""
        return {id(parameter): name for name, parameter in self.model.named_parameters()}

    def save_best(self, run_folder: Path) -> None:
        """Keep the weights of now beside the states; all processes take part."""
        weights = self._trained_weights()
        if self.is_main:
            fresh = run_folder / f"{BEST}.new"
            torch.save(weights, fresh)
            fresh.replace(run_folder / BEST)

    def _trained_weights(self) -> dict[str, torch.Tensor]:
        """Whole, of all that learns: on the main process alone where they are sharded."""
        weights = self.accelerator.get_state_dict(self.prepared)
        return trained_state(self.model, weights) if self.is_main else {}


def require_layout(run_folder: Path, layout: Layout) -> None:
    """Raise StoreError where `layout` can't go on from the newest state, before anything is loaded.

    Whether that state is whole and its own is looked at once its weights are wanted.
    """
    found = Snapshot.glimpsed(run_folder)
    if found is not None:
        found.continued_in(layout)


def require_room(states: States, model: Any) -> None:
    """Raise StoreError before a training whose states the disk could not hold."""
    missing = states.room_for(state_bytes(model))
    if missing is not None:
        raise StoreError(missing)


def state_bytes(model: Any) -> int:
    """About how large a state is, from the number of weights."""
    return BYTES_PER_WEIGHT * sum(
        int(getattr(weight, "ds_numel", weight.numel()))
        for weight in model.parameters()
        if weight.requires_grad
    )


def bring_back_best(snapshot: Snapshot | None, run_folder: Path) -> None:
    """The best weights as they were at the state: a killed run may have found better ones since."""
    best = run_folder / BEST
    best.unlink(missing_ok=True)
    if snapshot is not None and (snapshot.folder / BEST).exists():
        os.link(snapshot.folder / BEST, best)


def best_weights(run_folder: Path) -> dict[str, torch.Tensor]:
    """What `Engine.save_best` kept last; read from the file as they are used."""
    weights: dict[str, torch.Tensor] = _load(run_folder / BEST, mmap=True)
    return weights


def _load(path: Path, mmap: bool = False) -> Any:
    return torch.load(path, map_location="cpu", weights_only=True, mmap=mmap)


def _random_state() -> dict[str, Any]:
    numpy_state: Any = np.random.get_state(legacy=False)
    key = torch.from_numpy(numpy_state["state"]["key"].astype(np.int64))
    return {
        "python": random.getstate(),
        "numpy": {**numpy_state, "state": {**numpy_state["state"], "key": key}},
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state() if torch.cuda.is_available() else None,
    }


def _set_random_state(saved: dict[str, Any]) -> None:
    random.setstate(saved["python"])
    numpy_state = saved["numpy"]
    key = numpy_state["state"]["key"].numpy().astype(np.uint32)
    np.random.set_state({**numpy_state, "state": {**numpy_state["state"], "key": key}})
    torch.set_rng_state(saved["torch"])
    if saved["cuda"] is not None:
        torch.cuda.set_rng_state(saved["cuda"])
