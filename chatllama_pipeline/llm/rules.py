"""The provider `rules`: a judge and a writer that know the grammar, and nothing else.

No language model: the judge adds up an explicit rubric, the writer fills templates. It lets the
whole chain run on a machine with nothing, and refuses texts outside of the grammar.

The rubric, `data.grammar.rows.Quality.rubric`, reads only prompt and reply. What else a reply says
earns nothing.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

from chatllama_pipeline.data.grammar import rows as grammar
from chatllama_pipeline.errors import ProviderError
from chatllama_pipeline.llm.client.requests import OnProgress
from chatllama_pipeline.llm.judge.questions import Judgement
from chatllama_pipeline.records import Prompt, user_prompt

_QUOTED_CHARACTERS = 60
# Drawing distinct texts at random slows down as the last ones are left; refuse well before that.
_MOST_REPLIES = 50_000


def _question(prompt: Prompt) -> grammar.Question:
    asked = next((turn.content for turn in reversed(prompt) if turn.role == "user"), "")
    question = grammar.read_question(asked)
    if question is None:
        quoted = asked if len(asked) <= _QUOTED_CHARACTERS else asked[:_QUOTED_CHARACTERS] + "..."
        raise ProviderError(
            f"rules only knows the grammar, and this prompt is outside of it: {quoted!r}; "
            "set llm.provider (and evaluation.judge) in config.yaml to one that can, or to none"
        )
    return question


def names_item(prompt: Prompt, reply: str) -> bool:
    """Whether the reply names the item asked about, and no other.

    Raises ProviderError for a prompt outside of the grammar.
    """
    return grammar.read_quality(_question(prompt), reply).topic == "asked"


class RulesJudge:
    """Scores a reply 0..5 by the grammar's rubric."""

    name = "rules"

    def score(self, prompt: Prompt, reply: str) -> float:
        """Points of a reply, however garbled; ProviderError for a prompt outside of the grammar."""
        return float(grammar.read_quality(_question(prompt), reply).rubric)

    def score_all(
        self,
        rows: Sequence[tuple[Prompt, str]],
        samples: int = 1,
        progress: OnProgress | None = None,
    ) -> list[Judgement]:
        """The points of every row; a rubric says the same each time, so one sample is enough."""
        return [Judgement(points, (points,)) for points in (self.score(*row) for row in rows)]


class RulesWriter:
    """Writes questions and replies of the grammar; the same seed writes the same texts."""

    name = "rules"

    def conversations(self, count: int, seed: int) -> list[tuple[Prompt, str]]:
        """`count` distinct questions with a good reply each."""
        return self._replies(count, seed, "synthetic_conversations")

    def completions(self, count: int, seed: int) -> list[tuple[Prompt, str]]:
        """`count` distinct questions with a reply of any quality each."""
        return self._replies(count, seed, "synthetic_completions")

    def prompts(self, count: int, seed: int) -> list[Prompt]:
        """`count` distinct questions, first those that the source `grammar` doesn't ask."""
        rng = random.Random(f"rules/prompts/{seed}")
        fresh, used = list(grammar.fresh_questions()), list(grammar.source_questions())
        rng.shuffle(fresh)
        rng.shuffle(used)
        if count > len(fresh) + len(used):
            raise ProviderError(
                f"rules knows {len(fresh) + len(used)} questions and was asked for {count}; "
                f"lower llm.synthetic_prompts"
            )
        return [user_prompt(question.text) for question in [*fresh, *used][:count]]

    def _replies(self, count: int, seed: int, setting: str) -> list[tuple[Prompt, str]]:
        if count > _MOST_REPLIES:
            raise ProviderError(
                f"rules writes at most {_MOST_REPLIES} replies and was asked for {count}; "
                f"lower llm.{setting}"
            )
        rng = random.Random(f"rules/{setting}/{seed}")
        questions = [*grammar.source_questions(), *grammar.fresh_questions()]
        written: dict[tuple[str, str], None] = {}
        while len(written) < count:
            question = rng.choice(questions)
            quality = (
                grammar.GOOD if setting == "synthetic_conversations" else grammar.draw_quality(rng)
            )
            written[question.text, grammar.write_reply(question, quality, rng)] = None
        return [(user_prompt(question), reply) for question, reply in written]
