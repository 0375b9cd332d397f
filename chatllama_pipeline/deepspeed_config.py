"""DeepSpeed's configuration: from an assistant's `ds_config.json`, or from `zero_stage`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from chatllama_pipeline.errors import SettingsError
from chatllama_pipeline.settings import AssistantSettings

STAGES = (0, 1, 2, 3)
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


def plan_for(stage: str, settings: AssistantSettings) -> DeepSpeedPlan | None:
    """DeepSpeed's plan for a training stage; None where it trains without DeepSpeed.

    PPO is sharded as `actor_config` says, like SFT.
    """
    name = "reward_config" if stage == "reward_model" else "actor_config"
    section = settings.reward_config if name == "reward_config" else settings.actor_config
    if section.deepspeed_enable:
        path = Path(section.deepspeed_config_path)
        return _from_file(path, read_ds_config(path), _said_by_config(stage, settings))
    if not section.zero_stage:
        return None
    zero: dict[str, Any] = {"stage": section.zero_stage}
    if section.offload != "none":
        zero["offload_optimizer"] = {"device": "cpu"}
    if section.offload == "all":
        zero["offload_param"] = {"device": "cpu"}
    return DeepSpeedPlan({"zero_optimization": zero})


def _from_file(path: Path, raw: dict[str, Any], said: Mapping[str, Any]) -> DeepSpeedPlan:
    ignored = []
    for dotted, (key, value) in said.items():
        found = _at(raw, dotted)
        if found is not None and found != value:
            ignored.append(f"{dotted} {json.dumps(found)} ({key} {json.dumps(value)})")
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
    return DeepSpeedPlan(_without_auto(config), warnings)


def _said_by_config(stage: str, settings: AssistantSettings) -> dict[str, tuple[str, Any]]:
    """DeepSpeed's key -> the key of config.yaml that decides, with its value."""
    if stage == "actor_ppo":
        ppo = settings.trainer_config
        name, rate, rows, precision = (
            "trainer_config",
            "actor_lr",
            ppo.minibatch_size,
            ppo.precision,
        )
        lr, micro, norm, schedule = ppo.actor_lr, ppo.micro_batch_size, ppo.max_grad_norm, "linear"
        decay = 0.0
    else:
        name = "reward_config" if stage == "reward_model" else "actor_config"
        section = settings.reward_config if stage == "reward_model" else settings.actor_config
        rate, rows, precision = "lr", section.batch_size, section.precision
        lr, micro, norm, schedule = (
            section.lr,
            section.micro_batch_size,
            section.max_grad_norm,
            "cosine",
        )
        decay = section.weight_decay
    said: dict[str, tuple[str, Any]] = {
        "train_batch_size": (f"{name}.batch_size", rows),
        "train_micro_batch_size_per_gpu": (f"{name}.micro_batch_size", micro or rows),
        "gradient_accumulation_steps": ("batch_size / micro_batch_size", rows // (micro or rows)),
        "gradient_clipping": (f"{name}.max_grad_norm", norm),
        "optimizer.params.lr": (f"{name}.{rate}", lr),
        "optimizer.params.weight_decay": ("weight_decay", decay),
        "scheduler.type": ("the schedule", schedule),
        "fp16.enabled": (f"{name}.precision {precision}", False),
    }
    if precision != "auto":
        said["bf16.enabled"] = (f"{name}.precision", precision == "bfloat16")
    return said


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
