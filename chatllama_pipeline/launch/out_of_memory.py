"""Out of memory: how it shows, and what the next try does with less.

A child that the kernel killed counts, too (`child`), and one that a cluster ended for memory
(`jobs.running`).
"""

from __future__ import annotations

import copy
import dataclasses
from pathlib import Path

from chatllama_pipeline.records import StageSpec
from chatllama_pipeline.settings import SECTION_OF, AssistantSettings, model_section

# What torch says on a CPU, and cuBLAS where nothing is left for its workspace.
REFUSALS = ("DefaultCPUAllocator", "CUBLAS_STATUS_ALLOC_FAILED")


def was_refused(error: BaseException) -> bool:
    """Whether memory was refused: by Python, by CUDA, or by torch on a CPU."""
    kinds = {kind.__name__ for kind in type(error).__mro__}
    return bool(kinds & {"MemoryError", "OutOfMemoryError"}) or (
        isinstance(error, RuntimeError) and any(text in str(error) for text in REFUSALS)
    )


def micro_batch(spec: StageSpec, processes: int) -> int | None:
    """Rows per forward of a training's spec; None where the stage isn't one."""
    if spec.stage not in SECTION_OF:
        return None
    section = AssistantSettings.of_stage(spec).training(spec.stage)
    chosen = None if section.micro_batch_size else _chosen(spec)
    return chosen or section.rows_per_forward(processes)


def choice_file(result: Path) -> Path:
    """Where a stage says the micro-batch that it chose by itself, for the result file `result`."""
    return result.with_name(result.name + ".micro_batch_size")


def tell_choice(spec: StageSpec, rows: int) -> None:
    """Before the memory is asked for: a process that the kernel kills tells nothing afterwards."""
    choice_file(Path(spec.result)).write_text(str(rows))


def _chosen(spec: StageSpec) -> int | None:
    path = choice_file(Path(spec.result))
    told = path.read_text() if path.exists() else ""
    return int(told) if told else None  # empty where it was killed amid its writing


def halved(rows: int, share: int) -> int:
    """The largest micro-batch of at most half of `rows` that divides a process's `share`."""
    return max(n for n in range(1, rows // 2 + 1) if share % n == 0)


def with_half(spec: StageSpec, processes: int) -> StageSpec | None:
    """The spec with half the micro-batch (and so twice the accumulation); None at one row.

    The replies sampled at once are halved as well. Neither changes what is trained, so the run
    continues.
    """
    rows = micro_batch(spec, processes)
    if rows is None or rows == 1:
        return None
    whole = AssistantSettings.of_stage(spec)
    share = whole.training(spec.stage).minibatch_size // processes
    settings = copy.deepcopy(spec.settings)
    training = whole.trained_as(spec.stage)
    changed = settings.setdefault(SECTION_OF[training], {})
    changed["micro_batch_size"] = halved(rows, share)
    if training == "actor_ppo":
        ppo = whole.trainer_config
        sampled = ppo.rollout_batch_size or ppo.rollouts_per_iteration // processes
        changed["rollout_batch_size"] = max(1, sampled // 2)
    elif training == "actor_best_of_n":
        sampled = whole.best_of_n_config.rollout_batch_size
        changed["rollout_batch_size"] = max(1, sampled // 2)
    return dataclasses.replace(spec, settings=settings)


def advice(spec: StageSpec) -> str:
    """What would fit where one row at a time doesn't."""
    section = model_section(spec.stage)
    return (
        f"one row at a time is too much already: shorten {section}.max_sequence_length, set "
        f"{section}.peft_enable: true, shard by {section}.zero_stage with more compute.processes, "
        f"set {section}.offload, or take a smaller model"
    )
