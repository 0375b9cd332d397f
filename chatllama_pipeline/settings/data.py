"""`data`: which rows an assistant draws on."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, field_validator

from chatllama_pipeline.settings.section import Positive, Section

SourceName = Literal["shp", "hh_rlhf", "grammar"]
# The original's names.
SOURCE_ALIASES = {"SHP": "shp", "ARLHF": "hh_rlhf"}


class DataSettings(Section):
    """Which rows an assistant draws on, and how they are split."""

    sources: list[SourceName] = Field(default=[], description="public sources to draw pairs from")
    number_of_samples: Positive | None = Field(
        default=None, description="pairs per source, at most"
    )
    label_noise: Annotated[float, Field(ge=0, le=0.5)] = Field(
        default=0.0, description="share of pairs whose label is flipped (an experiment's control)"
    )
    actor_replies: Literal["chosen", "both"] = Field(
        default="chosen", description="which replies of a pair the actor imitates"
    )
    validation_share: Annotated[float, Field(gt=0, lt=0.5)] = 0.05
    test_share: Annotated[float, Field(gt=0, lt=0.5)] = 0.05

    @field_validator("sources", mode="before")
    @classmethod
    def _original_names(cls, names: Any) -> Any:
        if not isinstance(names, list):
            return names
        return sorted({SOURCE_ALIASES.get(name, name) for name in names if isinstance(name, str)})
