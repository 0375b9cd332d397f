"""A writer's requests: each follows from its number, the seed, and the rows there are."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from chatllama_pipeline.llm.client.requests import LlmRequest
from chatllama_pipeline.llm.templates import Template
from chatllama_pipeline.llm.writer.texts import (
    Example,
    pairs_text,
    person_text,
    questions_text,
    reply_text,
    rows_schema,
)
from chatllama_pipeline.records import Message, Prompt
from chatllama_pipeline.seeds import stage_seed

PAIR_FIELDS, QUESTION_FIELDS = ("user_input", "completion"), ("user_input",)
# Self-Instruct shows six examples of people and two that were written before.
_SHOWN, _SHOWN_WRITTEN = 6, 2


@dataclass(frozen=True)
class Asked:
    """A request, and what it was made from: the template's hash and the examples' labels."""

    request: LlmRequest
    template: str
    examples: tuple[str, ...]


@dataclass(frozen=True)
class WriterRequests:
    """How a writer asks. `examples` are the user's, to which each call draws some written ones."""

    templates: dict[str, Template]
    examples: Sequence[Example]
    temperature: float
    max_tokens: int
    rows_per_call: int
    seed: int

    def pairs(self, number: int, written: Sequence[Example]) -> Asked:
        """Asks for `rows_per_call` pairs of what a person writes and a good reply."""
        template, shown = self.templates["actor"], self._draw("pairs", number, written)
        text = pairs_text(template, shown, self.rows_per_call)
        return self._asked(text, template, shown, ("pairs", number), PAIR_FIELDS)

    def questions(self, number: int, written: Sequence[Example], key: str) -> Asked:
        """Asks for `rows_per_call` things that people write, by the template of that key."""
        template, shown = self.templates[key], self._draw("questions", number, written)
        text = questions_text(template, shown, self.rows_per_call)
        return self._asked(text, template, shown, ("questions", number), QUESTION_FIELDS)

    def person(self, number: int, so_far: Prompt) -> Asked:
        """Asks what the person of talk `number` writes next."""
        template, shown = self.templates["actor"], self._draw("talk", number, ())
        rng = random.Random(f"{self.seed}/person/{number}")
        text = person_text(template, shown, so_far, rng)
        return self._asked(text, template, shown, ("person", number, len(so_far)))

    def reply(self, number: int, prompt: Prompt) -> Asked:
        """Asks for the assistant's good reply."""
        template, shown = self.templates["actor"], self._draw("talk", number, ())
        text = reply_text(template, shown, prompt)
        return self._asked(text, template, shown, ("reply", number, len(prompt)))

    def graded(self, number: int, prompt: Prompt, quality: str) -> Asked:
        """Asks for a reply of that quality, by the rules that the judge will score it by."""
        template, shown = self.templates["actor"], self._draw("graded", number, ())
        rubric = self.templates["reward"]
        text = reply_text(template, shown, prompt, quality, rubric.spoken)
        return self._asked(text, rubric, shown, ("graded", number))

    def _draw(self, kind: str, number: int, written: Sequence[Example]) -> list[Example]:
        rng = random.Random(f"{self.seed}/{kind}/examples/{number}")
        shown = rng.sample(self.examples, min(_SHOWN, len(self.examples)))
        shown += rng.sample(written, min(_SHOWN_WRITTEN, len(written)))
        rng.shuffle(shown)
        return shown

    def _asked(
        self,
        text: str,
        template: Template,
        shown: Sequence[Example],
        names: tuple[str | int, ...],
        fields: Sequence[str] = (),
    ) -> Asked:
        request = LlmRequest(
            messages=(Message("user", text),),
            temperature=self.temperature,
            max_tokens=self.max_tokens,
            seed=stage_seed(self.seed, *names),
            json_schema=rows_schema(fields) if fields else None,
            # Servers that know no seed still answer the same question in several ways.
            sample=int(names[1]),
        )
        return Asked(request, template.hash, tuple(example.label for example in shown))
