"""What all runs of a machine take for granted of `compute`, from the file `CHATLLAMA_COMPUTE`."""

import os
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, Field, ValidationError

from chatllama_pipeline.errors import SettingsError
from resources.compute import Compute

VARIABLE = "CHATLLAMA_COMPUTE"
Kind = TypeVar("Kind", bound=BaseModel)


def compute_here() -> Compute:
    """The resource with the file's values as defaults; a run's config has the last word.

    Raises SettingsError naming the file and what is wrong with it.
    """
    named = os.environ.get(VARIABLE)
    if not named:
        return Compute()
    path = Path(named).expanduser()
    try:
        values = yaml.safe_load(path.read_text())
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise SettingsError(f"{VARIABLE}: {path} can't be read: {error}") from None
    _refuse_unknown(path, values)
    try:
        Compute(**values)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        # 12:00:00 without quotes is a number to YAML.
        cure = ": put it into quotes" if first["type"] == "string_type" else ""
        raise SettingsError(f"{VARIABLE}: {path}: {key}: {first['msg']}{cure}") from None
    return _with_defaults(Compute, values)()


def _with_defaults(kind: type[Kind], values: dict[str, Any]) -> type[Kind]:
    """`kind` with other defaults.

    Given to an instance, they would be gone as soon as a run's config says anything: Dagster takes
    what that leaves out from the class.
    """
    annotations: dict[str, Any] = {}
    fields: dict[str, Any] = {}
    for name, value in values.items():
        field = kind.model_fields[name]
        annotations[name], default = field.annotation, value
        section = _section(kind, name)
        if section is not None:
            annotations[name] = _with_defaults(section, value)
            default = annotations[name]()
        fields[name] = Field(default=default, description=field.description)
    same = {"__module__": kind.__module__, "__doc__": kind.__doc__, "__annotations__": annotations}
    metaclass: Any = type(kind)
    made: type[Kind] = metaclass(kind.__name__, (kind,), {**same, **fields})
    return made


def _section(kind: type[BaseModel], name: str) -> type[BaseModel] | None:
    """The class of a key that has keys of its own; None where it has none."""
    annotation = kind.model_fields[name].annotation
    return (
        annotation if isinstance(annotation, type) and issubclass(annotation, BaseModel) else None
    )


def _refuse_unknown(
    path: Path, values: Any, kind: type[BaseModel] = Compute, prefix: str = ""
) -> None:
    if not isinstance(values, dict):
        where = f"{path}: {prefix[:-1]}" if prefix else str(path)
        raise SettingsError(f"{VARIABLE}: {where} must hold keys and values, such as nodes: 2")
    for key, value in values.items():
        if key not in kind.model_fields:
            raise SettingsError(
                f"{VARIABLE}: {path}: unknown key '{prefix}{key}'; those there are: "
                f"{', '.join(kind.model_fields)}"
            )
        section = _section(kind, key)
        if section is not None:
            _refuse_unknown(path, value, section, f"{prefix}{key}.")
