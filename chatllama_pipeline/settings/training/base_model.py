"""Where a model that is trained comes from."""

from __future__ import annotations

from typing import Annotated, Any, Self

from pydantic import Field, model_validator

from chatllama_pipeline.settings.section import SCRATCH, Positive, ScratchFamily, Section

GGUF_SUFFIX = ".gguf"


class BaseModelSettings(Section):
    """A hub id, a local folder or GGUF file, or a model made from nothing; each section says."""

    model: str = Field(description="hub id, local folder, GGUF file, or scratch")
    gguf_file: str | None = Field(
        default=None, description="the GGUF file to read, of those in the model's repository"
    )
    tokenizer_path: str | None = Field(
        default=None, description="hub id or folder of another tokenizer than the model's own"
    )
    trust_remote_code: bool = Field(
        default=False, description="run the Python code that comes with this model"
    )
    template_options: dict[str, Any] = Field(
        default_factory=dict,
        description="what the model's chat template is told, such as {enable_thinking: false}",
    )
    scratch_family: ScratchFamily = Field(
        default="llama", description="architecture of a model made from nothing"
    )
    scratch_hidden_size: Positive = Field(
        default=128, description="width of a model made from nothing"
    )
    scratch_layers: Positive = Field(default=2, description="layers of a model made from nothing")
    scratch_heads: Positive = Field(
        default=4, description="attention heads of a model made from nothing"
    )
    scratch_vocabulary: Annotated[int, Field(ge=300)] = Field(
        default=1024, description="tokens of a tokenizer made from nothing"
    )

    @model_validator(mode="after")
    def _one_gguf_file_of_the_model(self) -> Self:
        if self.gguf_file is None:
            return self
        if self.model == SCRATCH or self.model.endswith(GGUF_SUFFIX):
            raise ValueError(
                f"gguf_file: {self.gguf_file} names a file in the repository of a model, and "
                f"model: {self.model} has none: remove gguf_file"
            )
        if not self.gguf_file.endswith(GGUF_SUFFIX):
            raise ValueError(
                f"gguf_file: {self.gguf_file} doesn't end in {GGUF_SUFFIX}; name the file as the "
                "model's repository lists it"
            )
        return self
