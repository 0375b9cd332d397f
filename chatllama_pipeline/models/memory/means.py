"""By what a training computes: its device, its processes, its precision, DeepSpeed. No torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

from chatllama_pipeline.machine import processes_here, processes_started, wants_bfloat16
from chatllama_pipeline.settings import AssistantSettings
from chatllama_pipeline.settings.deepspeed_config import DeepSpeedPlan, plan_for


@dataclass(frozen=True)
class Means:
    """What settings and machine have decided; `here` counts the processes on this machine.

    A plan of DeepSpeed's that shards nothing is one to tell of, and trains without DeepSpeed.
    """

    device: str = "cpu"
    processes: int = 1
    here: int = 1
    bfloat16: bool = False
    deepspeed: DeepSpeedPlan | None = None

    @classmethod
    def of(cls, training: str, settings: AssistantSettings, device: str = "cpu") -> Self:
        """Those of `training` on this machine; raises SettingsError for a broken ds_config.json."""
        return cls(
            device,
            processes_started(),
            processes_here(),
            wants_bfloat16(settings.training(training).precision, device),
            plan_for(training, settings),
        )

    @property
    def zero_stage(self) -> int:
        """What DeepSpeed shards; 0 where it has no part in this."""
        return self.deepspeed.stage if self.deepspeed else 0

    @property
    def keeps_moments_on_cpu(self) -> bool:
        """Whether Adam's moments stand in the main memory, and the model elsewhere."""
        offloads = self.deepspeed is not None and self.zero_stage > 0 and self.deepspeed.offloads
        return offloads and self.device != "cpu"
