"""`data`, `feedback`: which rows an assistant draws on, and which of people's ratings."""

from __future__ import annotations

from typing import Annotated, Any, Literal, get_args

from pydantic import Field, field_validator, model_validator

from chatllama_pipeline.settings.section import Positive, PositiveFloat, Section

SourceName = Literal["shp", "hh_rlhf", "grammar"]
SOURCES: tuple[SourceName, ...] = get_args(SourceName)
# The original's names.
SOURCE_ALIASES = {"SHP": "shp", "ARLHF": "hh_rlhf"}
# Our fields of own rows; see data/own/shapes.py.
OwnField = Literal[
    "prompt", "completion", "score", "label", "chosen", "rejected", "messages", "system"
]
FieldName = Annotated[str, Field(min_length=1)]
PersonalKind = Literal["email", "phone", "key", "card", "iban"]
PERSONAL_KINDS: tuple[PersonalKind, ...] = get_args(PersonalKind)


class SourceChoice(Section):
    """What an assistant takes of a public source; `subsets` is another name for `domains`."""

    domains: list[str] = Field(default=[], description="of these alone; none named means all")
    min_ratio: Annotated[float, Field(ge=1)] = Field(
        default=1.0, description="least strength of a preference (SHP's score_ratio)"
    )
    max_pairs_per_prompt: Positive | None = Field(
        default=None, description="pairs per prompt (SHP's post), at most"
    )
    count: Positive | None = Field(default=None, description="pairs, at most")
    weight: PositiveFloat | None = Field(
        default=None, description="share of this source beside the others' weights"
    )

    @model_validator(mode="before")
    @classmethod
    def _subsets_are_domains(cls, raw: Any) -> Any:
        if isinstance(raw, dict) and "subsets" in raw and "domains" not in raw:
            return {**{key: raw[key] for key in raw if key != "subsets"}, "domains": raw["subsets"]}
        return raw


class OwnColumns(Section):
    """What our fields are called in a table's own files, where they aren't called so."""

    actor: dict[OwnField, FieldName] = Field(
        default={}, description="fields of actor_config.train_dataset_path's files"
    )
    reward: dict[OwnField, FieldName] = Field(
        default={}, description="fields of reward_config.train_dataset_path's files"
    )
    rlhf: dict[OwnField, FieldName] = Field(
        default={}, description="fields of trainer_config.examples_path's files"
    )

    def by_table(self) -> dict[str, dict[str, str]]:
        """Table -> our field -> the files' field."""
        return {
            table: {str(ours): theirs for ours, theirs in columns.items()}
            for table, columns in (
                ("actor", self.actor),
                ("reward", self.reward),
                ("rlhf", self.rlhf),
            )
        }


class DataSettings(Section):
    """Which rows an assistant draws on, and how they are split."""

    sources: dict[SourceName, SourceChoice] = Field(
        default={}, description="public sources to draw pairs from: names, or names with choices"
    )
    number_of_samples: Positive | None = Field(
        default=None, description="pairs per source, at most"
    )
    max_length: Positive | None = Field(
        default=None,
        description="prompt and reply in tokens; null: actor_config.max_sequence_length (scratch: "
        "no limit, a number counts bytes)",
    )
    max_reply_length: Positive | None = Field(
        default=None, description="longest reply, in tokens; null: no limit of its own"
    )
    label_noise: Annotated[float, Field(ge=0, le=0.5)] = Field(
        default=0.0, description="share of pairs whose label is flipped (an experiment's control)"
    )
    actor_replies: Literal["chosen", "both"] = Field(
        default="chosen", description="which replies of a pair the actor imitates"
    )
    columns: OwnColumns = Field(
        default_factory=OwnColumns,
        description="own fields by our names, per table: {actor: {prompt: question}}",
    )
    redact: list[PersonalKind] = Field(
        default=[],
        description="personal data that is replaced by placeholders; true means all kinds",
    )
    validation_share: Annotated[float, Field(gt=0, lt=0.5)] = Field(
        default=0.05, description="share of prompts, by their hash, that trainings are validated on"
    )
    test_share: Annotated[float, Field(gt=0, lt=0.5)] = Field(
        default=0.05,
        description="share of prompts, by their hash, that nothing is trained or validated on",
    )

    @field_validator("sources", mode="before")
    @classmethod
    def _by_name(cls, given: Any) -> Any:
        """A list of names, or of names with choices, as a mapping by our names, sorted."""
        if isinstance(given, list):
            given = dict(_name_and_choice(entry) for entry in given)
        if not isinstance(given, dict):
            return given
        named = {SOURCE_ALIASES.get(name, name): choice or {} for name, choice in given.items()}
        return dict(sorted(named.items(), key=lambda item: str(item[0])))

    @field_validator("redact", mode="before")
    @classmethod
    def _all_or_none(cls, kinds: Any) -> Any:
        if isinstance(kinds, bool):
            return list(PERSONAL_KINDS) if kinds else []
        return [kind for kind in PERSONAL_KINDS if kind in kinds] if _are_kinds(kinds) else kinds


class FeedbackSettings(Section):
    """When ratings are learned from, and how much of them, beside `data.redact` and the splits."""

    min_new: Positive | None = Field(
        default=100,
        description="ratings that must have come since the last ones were learned from before any "
        "other is; null: none ever is",
    )
    max_share: Annotated[float, Field(gt=0, le=1)] = Field(
        default=0.5, description="of the ratings: from one visit, at most, where there are several"
    )
    weight: Positive = Field(
        default=15,
        description="how many times reward model and SFT read a row that a rating became, where "
        "they read others once; less often where such rows would become more than the others",
    )
    test_share: Annotated[float, Field(ge=0, lt=0.5)] = Field(
        default=0.2,
        description="share of rated prompts, by their hash, that are held out to compare a "
        "candidate with the release in use; at least data.test_share",
    )


def _are_kinds(kinds: Any) -> bool:
    return isinstance(kinds, list) and all(kind in PERSONAL_KINDS for kind in kinds)


def _name_and_choice(entry: Any) -> tuple[Any, Any]:
    if isinstance(entry, dict) and len(entry) == 1:
        return next(iter(entry.items()))
    return (entry if isinstance(entry, str) else repr(entry)), {}
