"""`rubric`: what a reply earns points for, where nobody but a rule shall judge."""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import Field, field_validator, model_validator

from chatllama_pipeline.settings.section import Count, Positive, PositiveFloat, Section

CONDITIONS = ("says", "avoids", "words", "words_of_the_question")


class Criterion(Section):
    """One thing that a reply earns `points` for, all or none of them."""

    name: Annotated[str, Field(min_length=1)] = Field(
        description="what the criterion is called in messages"
    )
    points: PositiveFloat = Field(default=1.0, description="what meeting it earns")
    says: str | None = Field(default=None, description="a pattern (regex) that the reply holds")
    avoids: str | None = Field(default=None, description="a pattern that it doesn't hold")
    words: tuple[Count, Count] | None = Field(
        default=None, description="[fewest, most] words of the reply"
    )
    words_of_the_question: Positive | None = Field(
        default=None,
        description="how many of the question's words of four letters or more the reply takes up",
    )

    @field_validator("says", "avoids")
    @classmethod
    def _must_be_a_pattern(cls, pattern: str | None) -> str | None:
        if pattern is not None:
            import regex

            try:
                regex.compile(pattern)
            except regex.error as error:
                raise ValueError(
                    f"{pattern!r} is no regular expression ({error}); write a backslash before a "
                    "sign that is meant literally"
                ) from error
        return pattern

    @model_validator(mode="after")
    def _must_ask_for_one_thing(self) -> Self:
        given = [name for name in CONDITIONS if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(
                f"{self.name!r} has {', '.join(given) or 'no condition'}; give it one of "
                f"{', '.join(CONDITIONS)}"
            )
        if self.words is not None and self.words[0] > self.words[1]:
            raise ValueError(f"{self.name!r}: words {list(self.words)}: write [fewest, most]")
        return self
