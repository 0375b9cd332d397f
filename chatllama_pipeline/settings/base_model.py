"""Where a model that is trained comes from."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from chatllama_pipeline.settings.section import Positive, ScratchFamily, Section


class BaseModelSettings(Section):
    """A hub id, a local folder, or a model made from nothing; what it is, each section says."""

    model: str = Field(description="hub id, local folder, or scratch")
    tokenizer_path: str | None = None
    trust_remote_code: bool = Field(
        default=False, description="run the Python code that comes with this model"
    )
    scratch_family: ScratchFamily = Field(
        default="llama", description="architecture of a model made from nothing"
    )
    scratch_hidden_size: Positive = 128
    scratch_layers: Positive = 2
    scratch_heads: Positive = 4
    scratch_vocabulary: Annotated[int, Field(ge=300)] = 1024
