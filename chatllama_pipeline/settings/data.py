"""`data`: which rows an assistant draws on."""

from __future__ import annotations

from typing import Annotated, Any, Literal, get_args

from pydantic import Field, field_validator

from chatllama_pipeline.settings.section import Positive, Section

SourceName = Literal["shp", "hh_rlhf", "grammar"]
# The original's names.
SOURCE_ALIASES = {"SHP": "shp", "ARLHF": "hh_rlhf"}
PersonalKind = Literal["email", "phone", "key", "card", "iban"]
PERSONAL_KINDS: tuple[PersonalKind, ...] = get_args(PersonalKind)


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
    redact: list[PersonalKind] = Field(
        default=[],
        description="personal data that is replaced by placeholders; true means all kinds",
    )
    validation_share: Annotated[float, Field(gt=0, lt=0.5)] = 0.05
    test_share: Annotated[float, Field(gt=0, lt=0.5)] = 0.05

    @field_validator("sources", mode="before")
    @classmethod
    def _original_names(cls, names: Any) -> Any:
        if not isinstance(names, list):
            return names
        return sorted({SOURCE_ALIASES.get(name, name) for name in names if isinstance(name, str)})

    @field_validator("redact", mode="before")
    @classmethod
    def _all_or_none(cls, kinds: Any) -> Any:
        if isinstance(kinds, bool):
            return list(PERSONAL_KINDS) if kinds else []
        return [kind for kind in PERSONAL_KINDS if kind in kinds] if _are_kinds(kinds) else kinds


def _are_kinds(kinds: Any) -> bool:
    return isinstance(kinds, list) and all(kind in PERSONAL_KINDS for kind in kinds)
