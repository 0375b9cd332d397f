"""What a single run may change: the only run config there is."""

from typing import Any

import dagster as dg
from pydantic import Field

from chatllama_pipeline.errors import SettingsError
from chatllama_pipeline.lineage.assets import ASSETS

ALL = "all"


class RunOptions(dg.ConfigurableResource[None]):
    """Settings of one run, on top of the assistant's config.yaml."""

    overrides: dict[str, Any] = Field(
        default={},
        description='Dotted keys of config.yaml and their values for this run: {"seed": 1}.',
    )
    force: list[str] = Field(
        default=[], description="Assets to make again though nothing changed, or `all`."
    )
    promote: bool = Field(
        default=False,
        description="Let what a run with overrides makes be used, and released when the gate "
        "allows it; else the run is an experiment, and what is in use stays in use.",
    )
    take_over: bool = Field(
        default=False,
        description="Take over the versions of another folder's assistant of the same name.",
    )

    @property
    def is_experiment(self) -> bool:
        """Whether what is in use stays in use, whatever the run makes."""
        return bool(self.overrides) and not self.promote

    def forces(self, asset: str) -> bool:
        """Whether `asset` is to be made again; an unknown name in `force` is an error."""
        unknown = [name for name in self.force if name != ALL and name not in ASSETS]
        if unknown:
            raise SettingsError(
                f"run_options.force: unknown asset {unknown[0]!r}; those there are: "
                f"{ALL}, {', '.join(ASSETS)}"
            )
        return ALL in self.force or asset in self.force
