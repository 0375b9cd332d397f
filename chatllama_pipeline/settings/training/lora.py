"""`lora`: the adapter that is trained in the place of all weights, as `peft_config.yaml` has it."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import Field, field_validator

from chatllama_pipeline.settings.section import Positive, PositiveFloat, Section

PEFT_CONFIG_FILE = "peft_config.yaml"


class LoraSettings(Section):
    """LoRA (Hu et al. 2021) by peft; the defaults are the original's `peft_config.yaml`."""

    r: Positive = Field(default=8, description="rank")
    lora_alpha: PositiveFloat = Field(default=32, description="the update counts lora_alpha / r")
    lora_dropout: Annotated[float, Field(ge=0, lt=1)] = Field(
        default=0.1, description="share of the adapter's inputs left out at each step of training"
    )
    target_modules: Annotated[list[str], Field(min_length=1)] | str | None = Field(
        default=None,
        description="names of linear layers, a regex of whole names, or all-linear; null: what "
        "peft takes for the model's family, else all-linear",
    )
    use_rslora: bool = Field(default=False, description="lora_alpha / sqrt(r) instead")
    bias: Literal["none"] = Field(default="none", description="no bias is trained")
    inference_mode: Literal[False] = Field(
        default=False, description="an adapter here is there to train"
    )
    peft_type: Literal["LORA"] = Field(
        default="LORA", description="the one kind of adapter there is here"
    )
    task_type: str | None = Field(default=None, description="not used: the role says it")

    @field_validator("target_modules")
    @classmethod
    def _must_be_a_regex(cls, value: list[str] | str | None) -> list[str] | str | None:
        if isinstance(value, str):
            try:
                re.compile(value)
            except re.error as error:
                raise ValueError(
                    f"target_modules: {value!r} is no regex ({error}); write one that fits whole "
                    "names of layers, or a list of last names"
                ) from None
        return value

    @field_validator("inference_mode", mode="before")
    @classmethod
    def _must_train(cls, value: object) -> object:
        if value is True:
            raise ValueError("inference_mode: true would train nothing; set it to false")
        return value
