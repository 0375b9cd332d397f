"""What every section of `config.yaml` shares: its base class and its kinds of numbers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from chatllama_pipeline.errors import UndeclaredSettingError

Positive = Annotated[int, Field(ge=1)]
Count = Annotated[int, Field(ge=0)]
Rate = Annotated[float, Field(gt=0, lt=1)]
Share = Annotated[float, Field(ge=0, le=1)]
NonNegative = Annotated[float, Field(ge=0)]
PositiveFloat = Annotated[float, Field(gt=0)]


def _is_path(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip())


def _check_paths(value: Any) -> Any:
    if _is_path(value) or (isinstance(value, list) and value and all(map(_is_path, value))):
        return value
    raise ValueError(f"{value!r} is no path; write a file, a folder, a glob, or a list of them")


# Files of the user's, relative to the assistant's folder: a path, a glob, or a list of them.
Paths = Annotated[str | list[str], BeforeValidator(_check_paths)]


def told_paths(paths: str | list[str]) -> str:
    """Paths as a message spells them."""
    return paths if isinstance(paths, str) else ", ".join(paths)


SCRATCH = "scratch"
ScratchFamily = Literal[
    "llama",
    "mistral",
    "qwen3",
    "gemma3",
    "phi",
    "gpt2",
    "gpt_neo",
    "gpt_neox",
    "gptj",
    "codegen",
    "opt",
    "bloom",
    "t5",
]


class Section(BaseModel):
    """A section of `config.yaml`: unknown keys are refused."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, protected_namespaces=(), defer_build=True
    )

    if not TYPE_CHECKING:  # else every misspelt setting would pass for one

        def __getattr__(self, name: str) -> Any:
            """A field that isn't there was left out by `limited_to`."""
            if name in type(self).model_fields:
                raise UndeclaredSettingError(
                    f"{name} of {type(self).__name__} is read and isn't among the settings that "
                    "the asset declares: add it to `settings` of the asset in lineage/assets.py, "
                    "or to lineage/neutral.py if no result depends on it"
                )
            return super().__getattr__(name)
