"""Questions with known short answers, and how many of them each model answers. Knows no torch."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from chatllama_pipeline.errors import SettingsError

SHAPE = '[{"question": "...", "accepted": ["..."]}]'


@dataclass(frozen=True)
class KnownQuestion:
    """A question, and the answers of which a right reply says one."""

    question: str
    accepted: list[str]

    def is_answered(self, reply: str) -> bool:
        """Whether `reply` says an accepted answer as words of its own, in any case."""
        import regex

        return any(
            regex.search(rf"(?<!\w){regex.escape(answer)}(?!\w)", reply, regex.IGNORECASE)
            for answer in self.accepted
        )


@dataclass(frozen=True)
class KnownAnswers:
    """How many of `asked` questions each model answers.

    `kept_by_sft` and `kept_by_ppo` count those among them that the base answers too.
    """

    asked: int
    base: int
    actor_sft: int
    actor_ppo: int
    kept_by_sft: int
    kept_by_ppo: int

    @classmethod
    def count(cls, base: Sequence[bool], sft: Sequence[bool], ppo: Sequence[bool]) -> KnownAnswers:
        """From what each model answered, question by question."""
        return cls(
            asked=len(base),
            base=sum(base),
            actor_sft=sum(sft),
            actor_ppo=sum(ppo),
            kept_by_sft=sum(old and new for old, new in zip(base, sft, strict=True)),
            kept_by_ppo=sum(old and new for old, new in zip(base, ppo, strict=True)),
        )

    def lost(self, stage: str) -> float:
        """The share of what the base answers that the model of `stage` doesn't."""
        kept = self.kept_by_ppo if stage == "actor_ppo" else self.kept_by_sft
        return 1 - kept / self.base if self.base else 0.0

    def __str__(self) -> str:
        parts = (("base", self.base), ("SFT", self.actor_sft), ("PPO", self.actor_ppo))
        return ", ".join(f"{name} {count}/{self.asked}" for name, count in parts)


def read_known_questions(path: Path, key: str) -> list[KnownQuestion]:
    """The questions in the JSON file that the setting `key` names.

    Raises SettingsError naming key, file, row and cure.
    """
    try:
        rows: Any = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise SettingsError(
            f"{key}: the file {path} does not exist; its shape is {SHAPE}"
        ) from None
    except (OSError, ValueError) as error:
        raise SettingsError(f"{key}: {path} is no JSON in UTF-8 ({error}): mend it") from error
    if not isinstance(rows, list) or not rows:
        raise SettingsError(f"{key}: {path} is no list of questions; its shape is {SHAPE}")
    found = [_question(row, f"{key}: {path}, row {number}") for number, row in enumerate(rows, 1)]
    if len({known.question for known in found}) < len(found):
        raise SettingsError(f"{key}: {path} asks a question twice: keep one of the two")
    return found


def _question(row: Any, where: str) -> KnownQuestion:
    if not isinstance(row, dict) or set(row) != {"question", "accepted"}:
        raise SettingsError(f"{where}: it has not just question and accepted; write {SHAPE}")
    question, accepted = row["question"], row["accepted"]
    if not _is_text(question):
        raise SettingsError(f"{where}, field question: {question!r} is no text; write the question")
    if not isinstance(accepted, list) or not accepted or not all(map(_is_text, accepted)):
        raise SettingsError(
            f"{where}, field accepted: {accepted!r} is no list of texts; write the answers that "
            'count, such as ["Paris"]'
        )
    return KnownQuestion(question, accepted)


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip())
