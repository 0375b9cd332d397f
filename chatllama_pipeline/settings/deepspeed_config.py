"""DeepSpeed's configuration: from an assistant's `ds_config.json`, or from `zero_stage`."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from chatllama_pipeline.errors import SettingsError
from chatllama_pipeline.settings import (
    SECTION_OF,
    AssistantSettings,
    OwnModelSection,
    SupervisedSection,
    model_section,
)

STAGES = (0, 1, 2, 3)
# Of torch's AdamW, and so of every training here.
ADAM_BETAS = [0.9, 0.999]
# config.yaml decides what these are; ds_config.json's word on them is not taken.
DECIDED_ELSEWHERE = (
    "train_batch_size",
    "train_micro_batch_size_per_gpu",
    "gradient_accumulation_steps",
    "gradient_clipping",
    "optimizer",
    "scheduler",
    "fp16",
    "bf16",
    "amp",
)
# What lays a model or a row out otherwise than ZeRO does, over all processes, and the values that
# leave it be: batches, states and weights here know nothing of it.
NOT_ZEROS = {
    "tensor_parallel.autotp_size": (0, 1),
    "sequence_parallel_size": (1,),
    "expert_parallel.autoep_size": (0, 1),
    "zero_optimization.mics_shard_size": (-1, 0),
}


class Decided(NamedTuple):
    """Who decides instead of one of DeepSpeed's keys, in words, and the values that agree."""

    told: str
    values: tuple[Any, ...]


@dataclass(frozen=True)
class DeepSpeedPlan:
    """DeepSpeed's own configuration, but for batch sizes and precision.

    `written` is what `file` says, where one was read.
    """

    config: dict[str, Any]
    file: Path | None = None
    written: dict[str, Any] = field(default_factory=dict)

    @property
    def stage(self) -> int:
        return int(self.config["zero_optimization"]["stage"])

    @property
    def offloads(self) -> bool:
        """Whether the optimizer runs on the CPU."""
        return _at(self.config, "zero_optimization.offload_optimizer.device") not in (None, "none")

    @property
    def moments_in_files(self) -> bool:
        """Whether the optimizer's state stands in files on a disk."""
        return bool(_at(self.config, "zero_optimization.offload_optimizer.device") == "nvme")

    @property
    def weights_in_files(self) -> bool:
        """Whether the sharded weights stand in files on a disk."""
        return bool(_at(self.config, "zero_optimization.offload_param.device") == "nvme")


def find_ds_config(folder: Path, written: str, key: str) -> Path:
    """The file that `key` names: relative to the assistant's folder, or by its name alone there.

    The original's paths are relative to a working directory that nobody has here.
    """
    named = folder / Path(written).expanduser()
    for path in (named, folder / named.name):
        if path.is_file():
            return path.resolve()
    raise SettingsError(
        f"{key}: {named} does not exist, and no {named.name} stands in {folder}: put it there, or "
        "set zero_stage instead of deepspeed_enable"
    )


def read_ds_config(path: Path) -> dict[str, Any]:
    """The file's content, how it lays a model out checked; raises SettingsError naming file and
    key."""
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise SettingsError(f"{path} is not JSON ({error}): mend it there") from None
    zero = raw.get("zero_optimization", {}) if isinstance(raw, dict) else None
    if not isinstance(raw, dict) or not isinstance(zero, dict):
        raise SettingsError(
            f"{path}: DeepSpeed's file is an object, and zero_optimization in it one too, such as "
            '{"zero_optimization": {"stage": 2}}'
        )
    stage = zero.get("stage", 0)
    if stage not in STAGES or isinstance(stage, bool):
        raise SettingsError(
            f"{path}: zero_optimization.stage is {stage!r}: use one of "
            f"{', '.join(map(str, STAGES))}"
        )
    for dotted, values in NOT_ZEROS.items():
        value = _at(raw, dotted)
        if value is not None and value not in values:
            raise SettingsError(
                f"{path}: {dotted} is {json.dumps(value)}, and trainings share models out by ZeRO "
                "alone: remove it there, and use zero_optimization.stage 3 where a model is larger "
                "than one GPU"
            )
    return raw


def plan_for(stage: str, settings: AssistantSettings) -> DeepSpeedPlan | None:
    """DeepSpeed's plan for a training stage; None where it trains without DeepSpeed.

    PPO is sharded as `actor_config` says, like SFT.
    """
    section: OwnModelSection = getattr(settings, model_section(stage))
    if section.deepspeed_enable:
        path = Path(section.deepspeed_config_path)
        return _from_file(path, read_ds_config(path))
    if not section.zero_stage:
        return None
    zero: dict[str, Any] = {"stage": section.zero_stage}
    if section.offload != "none":
        zero["offload_optimizer"] = {"device": "cpu"}
    if section.offload == "all":
        zero["offload_param"] = {"device": "cpu"}
    return DeepSpeedPlan({"zero_optimization": zero})


def _from_file(path: Path, written: dict[str, Any]) -> DeepSpeedPlan:
    config = {key: value for key, value in written.items() if key not in DECIDED_ELSEWHERE}
    zero = {"stage": 0, **config.get("zero_optimization", {})}
    if _weights_offloaded_in_vain(zero):
        del zero["offload_param"]
    config["zero_optimization"] = zero
    return DeepSpeedPlan(_without_auto(config), path, written)


def _weights_offloaded_in_vain(zero: dict[str, Any]) -> bool:
    return zero["stage"] < 3 and _at(zero, "offload_param.device") not in (None, "none")


def ignored(
    plan: DeepSpeedPlan, stage: str, settings: AssistantSettings, processes: int, bfloat16: bool
) -> list[str]:
    """Warnings of what `plan`'s file says in vain, with both values: at most two."""
    if plan.file is None:
        return []
    found = []
    for dotted, (told, values) in _decided(stage, settings, processes, bfloat16).items():
        value = _at(plan.written, dotted)
        if value is not None and value not in values:
            found.append(f"{dotted} {json.dumps(value)} ({told})")
    zero = {"stage": 0, **plan.written.get("zero_optimization", {})}
    if _weights_offloaded_in_vain(zero):
        found.append(
            f"zero_optimization.offload_param {json.dumps(zero['offload_param']['device'])} (it "
            f"needs zero_optimization.stage 3, which is {zero['stage']})"
        )
    warnings = []
    if found:
        warnings.append(f"{plan.file}: ignored, since config.yaml decides: {'; '.join(found)}")
    if not plan.stage:
        warnings.append(
            f"{plan.file}: zero_optimization.stage 0 shards nothing: trains without DeepSpeed, and "
            "without what else the file says"
        )
    return warnings


def _decided(
    stage: str, settings: AssistantSettings, processes: int, bfloat16: bool
) -> dict[str, Decided]:
    """DeepSpeed's key -> who decides it."""
    name, section = SECTION_OF[stage], settings.training(stage)
    rows = section.rows_per_forward(processes)
    precision = f"precision {section.precision}"
    if section.precision == "auto":
        precision += f", {'bfloat16' if bfloat16 else 'float32'} here"

    def by(key: str, value: Any) -> Decided:
        return Decided(f"{name}.{key} {json.dumps(value)}", (value,))

    rate, schedule, decay = "actor_lr", "linear", Decided("always 0", (0,))
    if isinstance(section, SupervisedSection):
        rate, schedule, decay = "lr", "cosine", by("weight_decay", section.weight_decay)

    return {
        "train_batch_size": by("batch_size", section.minibatch_size),
        "train_micro_batch_size_per_gpu": by("micro_batch_size", rows),
        "gradient_accumulation_steps": by(
            "batch_size / micro_batch_size / processes",
            section.minibatch_size // (rows * processes),
        ),
        "gradient_clipping": by("max_grad_norm", section.max_grad_norm),
        "optimizer.type": Decided("always AdamW", ("AdamW", "Adam")),
        "optimizer.params.lr": by(rate, getattr(section, rate)),
        "optimizer.params.weight_decay": decay,
        "optimizer.params.betas": Decided(f"always {ADAM_BETAS}", (ADAM_BETAS,)),
        "scheduler.type": Decided(f"always {schedule}", (schedule,)),
        "fp16.enabled": Decided(f"{name}.{precision}", (False,)),
        "amp.enabled": Decided(f"{name}.{precision}", (False,)),
        "bf16.enabled": Decided(f"{name}.{precision}", (bfloat16,)),
    }


def _at(raw: Any, dotted: str) -> Any:
    """The value at a dotted key; None where there is none, or DeepSpeed's `auto`."""
    for part in dotted.split("."):
        if not isinstance(raw, dict):
            return None
        raw = raw.get(part)
    return None if raw == "auto" else raw


def _without_auto(value: Any) -> Any:
    """`value` without the keys that are `auto`: DeepSpeed's defaults stand in for them."""
    if not isinstance(value, dict):
        return value
    return {key: _without_auto(inner) for key, inner in value.items() if inner != "auto"}
