"""DeepSpeed's configuration: from an assistant's `ds_config.json`, or from `zero_stage`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from chatllama_pipeline.errors import SettingsError
from chatllama_pipeline.machine import wants_bfloat16
from chatllama_pipeline.settings import SECTION_OF, AssistantSettings, SupervisedSection

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


class Decided(NamedTuple):
    """Who decides instead of one of DeepSpeed's keys, in words, and the values that agree."""

    told: str
    values: tuple[Any, ...]


@dataclass(frozen=True)
class DeepSpeedPlan:
    """DeepSpeed's own configuration, but for batch sizes and precision, and what was ignored."""

    config: dict[str, Any]
    warnings: list[str] = field(default_factory=list)

    @property
    def stage(self) -> int:
        return int(self.config["zero_optimization"]["stage"])

    @property
    def offloads(self) -> bool:
        """Whether the optimizer runs on the CPU."""
        return _at(self.config, "zero_optimization.offload_optimizer.device") not in (None, "none")


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
    """The file's content, its ZeRO stage checked; raises SettingsError naming file and key."""
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
    return raw


def plan_for(
    stage: str, settings: AssistantSettings, device: str, processes: int
) -> DeepSpeedPlan | None:
    """DeepSpeed's plan for a training stage; None where it trains without DeepSpeed.

    PPO is sharded as `actor_config` says, like SFT.
    """
    section = settings.reward_config if stage == "reward_model" else settings.actor_config
    if section.deepspeed_enable:
        path = Path(section.deepspeed_config_path)
        return _from_file(path, read_ds_config(path), _decided(stage, settings, device, processes))
    if not section.zero_stage:
        return None
    zero: dict[str, Any] = {"stage": section.zero_stage}
    if section.offload != "none":
        zero["offload_optimizer"] = {"device": "cpu"}
    if section.offload == "all":
        zero["offload_param"] = {"device": "cpu"}
    return DeepSpeedPlan({"zero_optimization": zero})


def _from_file(path: Path, raw: dict[str, Any], decided: Mapping[str, Decided]) -> DeepSpeedPlan:
    ignored = []
    for dotted, (told, values) in decided.items():
        found = _at(raw, dotted)
        if found is not None and found not in values:
            ignored.append(f"{dotted} {json.dumps(found)} ({told})")
    config = {key: value for key, value in raw.items() if key not in DECIDED_ELSEWHERE}
    zero = dict(config.get("zero_optimization", {}))
    zero.setdefault("stage", 0)
    device = _at(zero, "offload_param.device")
    if zero["stage"] < 3 and device not in (None, "none"):
        del zero["offload_param"]
        ignored.append(
            f"zero_optimization.offload_param {json.dumps(device)} (it needs "
            f"zero_optimization.stage 3, which is {zero['stage']})"
        )
    config["zero_optimization"] = zero
    warnings = []
    if ignored:
        warnings.append(f"{path}: ignored, since config.yaml decides: {'; '.join(ignored)}")
    if not zero["stage"]:
        warnings.append(
            f"{path}: zero_optimization.stage 0 shards nothing: trains without DeepSpeed, and "
            "without what else the file says"
        )
    return DeepSpeedPlan(_without_auto(config), warnings)


def _decided(
    stage: str, settings: AssistantSettings, device: str, processes: int
) -> dict[str, Decided]:
    """DeepSpeed's key -> who decides it."""
    name, section = SECTION_OF[stage], settings.training(stage)
    rows = section.rows_per_forward(processes)
    half = wants_bfloat16(section.precision, device)
    precision = f"precision {section.precision}"
    if section.precision == "auto":
        precision += f", {'bfloat16' if half else 'float32'} here"

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
        "bf16.enabled": Decided(f"{name}.{precision}", (half,)),
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
