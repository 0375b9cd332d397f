"""What all runs of a machine take for granted of `compute`, from the file `CHATLLAMA_COMPUTE`."""

import os
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, Field, ValidationError

from chatllama_pipeline.errors import SettingsError
from resources.compute import Compute
from resources.slurm import Slurm

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
    if not isinstance(values, dict):
        raise SettingsError(f"{VARIABLE}: {path} must hold keys and values, such as nodes: 2")
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
        if isinstance(value, dict):
            annotations[name] = _with_defaults(Slurm, value)
            default = annotations[name]()
        fields[name] = Field(default=default, description=field.description)
    same = {"__module__": kind.__module__, "__doc__": kind.__doc__, "__annotations__": annotations}
    metaclass: Any = type(kind)
    made: type[Kind] = metaclass(kind.__name__, (kind,), {**same, **fields})
    return made


def _refuse_unknown(path: Path, values: dict[str, Any]) -> None:
    if not isinstance(values.get("slurm", {}), dict):
        raise SettingsError(f"{VARIABLE}: {path}: slurm must hold keys and values")
    for section, given, known in (
        ("", values, Compute.model_fields),
        ("slurm.", values.get("slurm", {}), Slurm.model_fields),
    ):
        unknown = [key for key in given if key not in known]
        if unknown:
            raise SettingsError(
                f"{VARIABLE}: {path}: unknown key '{section}{unknown[0]}'; those there are: "
                f"{', '.join(known)}"
            )
