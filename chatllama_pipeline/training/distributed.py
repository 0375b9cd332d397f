"""Several processes, by DDP or by DeepSpeed: what both training loops need of them."""

from __future__ import annotations

import contextlib
import math
import os
import shutil
import socket
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedType, broadcast_object_list, gather_object
from torch import Tensor

from chatllama_pipeline.errors import ChatllamaError, SettingsError
from chatllama_pipeline.models.adapters.lora import trained_state
from chatllama_pipeline.models.memory.means import Means
from chatllama_pipeline.models.sharding.loading import Sharing
from chatllama_pipeline.models.sharding.parts import as_type, is_in_parts, is_shared, put, whole
from chatllama_pipeline.training.batches import Shares
from chatllama_pipeline.training.builds import (
    builds_root,
    clear_abandoned_builds,
    do_without_shared_memory,
)

LOOPBACK = "127.0.0.1"
S = TypeVar("S")
T = TypeVar("T")


def rank() -> int:
    """This process's number among them."""
    return int(os.environ.get("RANK", "0"))


def require_devices(means: Means) -> None:
    """Refuse more processes here than there are GPUs, and DeepSpeed without its compiler.

    On a CPU any number of processes may share the cores.
    """
    if means.device == "cuda" and means.here > torch.cuda.device_count():
        raise SettingsError(
            f"{means.here} processes were started where {torch.cuda.device_count()} GPU(s) stand: "
            "each process needs one of its own; lower compute.processes, or set compute.device: cpu"
        )
    builds = means.deepspeed is not None and means.zero_stage and means.deepspeed.offloads
    if builds and shutil.which("g++") is None:
        raise SettingsError(
            "DeepSpeed builds its optimizer for the CPU with g++ at first use, and there is none: "
            "install g++, or train without offload"
        )


def require_known_to_deepspeed(means: Means) -> None:
    """Raise SettingsError where DeepSpeed doesn't take what its file says.

    It says so itself where it is given a model alone, once that is loaded.
    """
    plan = means.deepspeed
    if plan is None or plan.file is None or not means.zero_stage:
        return
    from deepspeed.runtime.config import DeepSpeedConfig

    try:
        DeepSpeedConfig({"train_micro_batch_size_per_gpu": 1, **plan.config})
    # Each part of it refuses by an exception of its own.
    except Exception as error:
        told = " ".join(str(error).split())
        raise SettingsError(
            f"{plan.file}: DeepSpeed doesn't take it: {told}: correct or remove that there"
        ) from error


def prepare_processes(means: Means) -> None:
    """Give DeepSpeed what it asks for, where it has a part in this."""
    if not means.zero_stage:
        return
    clear_abandoned_builds(builds_root())
    if means.device == "cpu":
        do_without_shared_memory()
    if "RANK" not in os.environ:
        # Alone, but DeepSpeed asks for a group all the same.
        with socket.socket() as probe:
            probe.bind((LOOPBACK, 0))
            port = probe.getsockname()[1]
        os.environ.update(
            RANK="0", WORLD_SIZE="1", LOCAL_RANK="0", LOCAL_WORLD_SIZE="1",
            MASTER_ADDR=LOOPBACK, MASTER_PORT=str(port),
        )  # fmt: skip


def sharing(means: Means) -> Sharing | None:
    """How models are shared out as they are loaded; None where every process loads them whole.

    So it does below ZeRO 3, and where DeepSpeed keeps the weights in files of its own.
    """
    if means.deepspeed is None or means.zero_stage < 3 or means.deepspeed.weights_in_files:
        return None
    import deepspeed

    prepare_processes(means)
    if means.device == "cuda":
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    backend = "nccl" if means.device == "cuda" else "gloo"
    deepspeed.init_distributed(backend, auto_mpi_discovery=False, verbose=False)
    return Sharing(means.deepspeed.config["zero_optimization"])


def deepspeed_settings(means: Means, shares: Shares, max_grad_norm: float) -> dict[str, Any] | None:
    """DeepSpeed's whole configuration: its plan, and what config.yaml decides; None without it."""
    if means.deepspeed is None or not means.zero_stage:
        return None
    config = means.deepspeed.config
    zero = {**config["zero_optimization"], "stage3_gather_16bit_weights_on_model_save": True}
    return {
        **config,
        "zero_optimization": zero,
        "train_batch_size": shares.batch_size,
        "train_micro_batch_size_per_gpu": shares.micro_batch_size,
        "gradient_accumulation_steps": shares.accumulation,
        "gradient_clipping": max_grad_norm,
        "bf16": {"enabled": means.bfloat16},
        "fp16": {"enabled": False},
        "zero_allow_untested_optimizer": True,
        "steps_per_print": math.inf,
        "wall_clock_breakdown": False,
    }


def agree(accelerator: Accelerator, flags: Sequence[bool]) -> list[bool]:
    """For each flag, whether any process raises it; the same answer on all."""
    if accelerator.num_processes == 1:
        return list(flags)
    raised: Tensor = accelerator.reduce(
        torch.tensor([float(flag) for flag in flags], device=accelerator.device), "sum"
    )
    return [count > 0 for count in raised.tolist()]


def is_sharded(prepared: Any) -> bool:
    """Whether each process holds but a part of the weights (ZeRO 3)."""
    stage = getattr(prepared, "zero_optimization_stage", None)
    return stage is not None and stage() == 3


@contextlib.contextmanager
def whole_weights(prepared: Any) -> Iterator[None]:
    """Within it every process has all weights, and the model runs as if it had never been sharded.

    All processes enter and leave together. DeepSpeed's own context: it also takes off the hooks
    that would gather weights layer by layer, and with them any need to stay in step.
    """
    if not is_sharded(prepared):
        with whole(prepared.parameters()):
            yield
        return
    from deepspeed.runtime.zero.stage3 import unwrap_model_for_generation

    with unwrap_model_for_generation(prepared):
        yield


def load_whole(model: Any, weights: dict[str, Tensor]) -> None:
    """Put whole `weights` into `model`, sharded or not; every process passes the same.

    What doesn't learn may be missing; raises RuntimeError where anything else is.
    """
    named = dict(model.named_parameters(remove_duplicate=False))
    shared = {name: named[name] for name in weights if name in named and is_shared(named[name])}
    for name, parameter in shared.items():
        put(parameter, weights[name])
    others = {name: tensor for name, tensor in weights.items() if name not in shared}
    result = model.load_state_dict(others, strict=False)
    missing = (set(result.missing_keys) - set(shared)) & set(trained_state(model))
    if missing or result.unexpected_keys:
        raise RuntimeError(f"weights of another model: {sorted(missing)} are missing in it")


def place(model: Any, device: str) -> None:
    """Put a model where this process computes."""
    local_rank = os.environ.get("LOCAL_RANK", "0")
    model.to(f"cuda:{local_rank}" if device == "cuda" else device)


def place_trained(model: Any, means: Means) -> None:
    """Put a model that isn't trained any further where, and as what, its training left it."""
    place(model, means.device)
    if means.zero_stage and means.bfloat16:
        as_type(model, torch.bfloat16)


def narrow_what_is_in_parts(model: Any, accelerator: Accelerator) -> None:
    """Make a model in parts bfloat16 where DeepSpeed trains so: it leaves it as it finds it."""
    if by_deepspeed(accelerator) and accelerator.mixed_precision == "bf16" and is_in_parts(model):
        as_type(model, torch.bfloat16)


def by_deepspeed(accelerator: Accelerator) -> bool:
    """Whether DeepSpeed holds the optimizer, and steps it within the last backward."""
    return bool(accelerator.distributed_type == DistributedType.DEEPSPEED)


def require_deepspeed(accelerator: Accelerator, means: Means) -> None:
    """Raise SettingsError where DeepSpeed has a part and accelerate does without it.

    It says nothing of that itself, and every process would hold all that it should share.
    """
    if means.zero_stage and not by_deepspeed(accelerator):
        raise SettingsError(
            f"zero_stage {means.zero_stage} asks for DeepSpeed, and accelerate trains without it "
            f"here ({accelerator.distributed_type.value}): unset ACCELERATE_USE_CPU where it is "
            "set, or set zero_stage: 0"
        )


def share_of(accelerator: Accelerator, rows: int) -> slice:
    """This process's part of `rows`, which must be a multiple of the processes."""
    size = rows // accelerator.num_processes
    start = accelerator.process_index * size
    return slice(start, start + size)


def gather_rows(accelerator: Accelerator, columns: Tensor, fill: float = 0) -> Tensor:
    """All processes' rows in order: `[B/R]` -> `[B]`, or `[B/R,T]` -> `[B,T]` with the widest T."""
    if accelerator.num_processes == 1:
        return columns
    wide = columns.long() if columns.dtype == torch.bool else columns
    if columns.dim() > 1:
        wide = accelerator.pad_across_processes(wide, dim=1, pad_index=fill)
    gathered: Tensor = accelerator.gather(wide.contiguous())
    return gathered.to(columns.dtype)


def all_or_none(accelerator: Accelerator, make: Callable[[], T]) -> T:
    """What `make` gives here, where it gave something in every process.

    What one of them refuses all raise: alone it would leave the others waiting.
    """
    if accelerator.num_processes == 1:
        return make()
    found: list[T] = []
    refused: ChatllamaError | None = None
    try:
        found.append(make())
    except ChatllamaError as error:
        refused = error
    errors = [error for error in gather_object([refused]) if error is not None]
    if errors:
        raise errors[0]
    return found[0]


def once_for_all(
    accelerator: Accelerator, make: Callable[[list[S]], list[T]], rows: list[S]
) -> list[T]:
    """`make` of all processes' `rows`, called in one of them; of what it gives, this one's part.

    Every process must come with as many rows. What is refused there all raise.
    """
    if accelerator.num_processes == 1:
        return make(rows)
    everybody = gather_object(rows)
    return by_one(accelerator, lambda: make(everybody))[share_of(accelerator, len(everybody))]


def by_one(accelerator: Accelerator, make: Callable[[], T]) -> T:
    """What `make` gives in the main process, told to all; what is refused there all raise."""
    if accelerator.num_processes == 1:
        return make()
    told: list[Any] = [
        all_or_none(accelerator, lambda: make() if accelerator.is_main_process else None)
    ]
    broadcast_object_list(told)
    found: T = told[0]
    return found
