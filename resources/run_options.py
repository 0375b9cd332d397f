"""What a single run may change: the only run config there is."""

import functools
from dataclasses import dataclass, field
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import dagster as dg

from chatllama_pipeline.lineage.assets import ASSETS
from chatllama_pipeline.settings.reference import Key, every_key

ALL = "all"
SCALARS = {bool: dg.Bool, int: dg.Int, float: dg.Float, str: dg.String}


@dataclass(frozen=True)
class RunOptions:
    """Settings of one run, on top of the assistant's config.yaml; `run_options` has their words."""

    overrides: dict[str, Any] = field(default_factory=dict)
    force: list[str] = field(default_factory=list)
    promote: bool = False
    take_over: bool = False

    @property
    def is_experiment(self) -> bool:
        """Whether what is in use stays in use, whatever the run makes."""
        return bool(self.overrides) and not self.promote

    def forces(self, asset: str) -> bool:
        """Whether `asset` is to be made again."""
        return ALL in self.force or asset in self.force


def _config_type(key: Key) -> Any:
    """What Dagster's Launchpad takes for a key; whatever is no plain value is left to the run."""
    annotation, nullable = key.annotation, False
    if get_origin(annotation) in (Union, UnionType):
        kinds = [kind for kind in get_args(annotation) if kind is not NoneType]
        nullable = len(kinds) < len(get_args(annotation))
        annotation = kinds[0] if len(kinds) == 1 else None
    if get_origin(annotation) is Annotated:
        annotation = get_args(annotation)[0]
    values = get_args(annotation) if get_origin(annotation) is Literal else ()
    found: Any
    if values and all(isinstance(value, str) for value in values):
        found = _one_of(values)
    elif not key.prepared and annotation in SCALARS:
        found = SCALARS[annotation]
    else:
        return dg.Any
    return dg.Noneable(found) if nullable else found


@functools.cache
def _one_of(values: tuple[str, ...]) -> dg.Enum:
    return dg.Enum(" | ".join(values), [dg.EnumValue(value) for value in values])


def _overrides() -> dg.Permissive:
    """Every key of config.yaml by its dotted name; one that isn't known is the run's to refuse."""
    return dg.Permissive(  # type: ignore[no-untyped-call]
        {
            key.dotted: dg.Field(_config_type(key), is_required=False, description=key.told)
            for key in every_key()
        }
    )


@dg.resource(
    config_schema={
        "overrides": dg.Field(
            _overrides(),
            default_value={},
            description="Dotted keys of config.yaml and their values for this run: {seed: 1}.",
        ),
        "force": dg.Field(
            dg.Array(_one_of((ALL, *ASSETS))),
            default_value=[],
            description="Assets to make again though nothing changed, or `all`.",
        ),
        "promote": dg.Field(
            bool,
            default_value=False,
            description="Let what a run with overrides makes be used, and released when the gate "
            "allows it; else the run is an experiment, and what is in use stays in use.",
        ),
        "take_over": dg.Field(
            bool,
            default_value=False,
            description="Take over the versions of another folder's assistant of the same name.",
        ),
    },
    description="Settings of one run, on top of the assistant's config.yaml.",
)
def run_options(context: dg.InitResourceContext) -> RunOptions:
    return RunOptions(**context.resource_config)
