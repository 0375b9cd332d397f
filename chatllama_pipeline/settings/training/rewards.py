"""`rewards`: what PPO's replies are paid for, and a person's own functions among it."""

from __future__ import annotations

import ast
import difflib
import keyword
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Self

from pydantic import Field, model_validator

from chatllama_pipeline.errors import SettingsError
from chatllama_pipeline.settings.section import Count, PositiveFloat, Section

REWARD_MODEL, JUDGE = "reward_model", "judge"
REWARDS_FILE = "rewards.py"
SHAPE = "def brief(prompt, reply): return -len(reply)"

Weight = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class RewardsSettings(Section):
    """What a reply earns in PPO: a weighted sum of the reward model, a judge, own functions.

    Each function and the judge are brought to mean 0 and standard deviation 1 on PPO's first
    replies, as the reward model is on the replies it was trained on, and then weighted.
    """

    weights: dict[str, Weight] = Field(
        default={REWARD_MODEL: 1.0},
        description="reward: its weight; a reward is `reward_model`, `judge` (who llm.judge is), "
        "or a function of the file; one of weight 0 is logged and pays nothing",
    )
    trust_code: bool = Field(
        default=False,
        description="run the file's functions, which may do all that you may; read it before",
    )
    file: str = Field(default=REWARDS_FILE, description="the functions, in the assistant's folder")
    silence_seconds: PositiveFloat = Field(
        default=120.0, description="how long a function may take over one reply, or all at once"
    )

    cheat_prompts: Count = Field(
        default=32,
        description="held-out prompts behind which replies that deserve nothing are tried before "
        "training; 0: none are",
    )

    @property
    def functions(self) -> list[str]:
        """The names that the file must have."""
        return [name for name in self.weights if name not in (REWARD_MODEL, JUDGE)]

    @property
    def default_alone(self) -> bool:
        """Whether the reward model's score is all there is, as it is."""
        return self.weights == {REWARD_MODEL: 1.0}

    def pays_by(self, name: str) -> bool:
        return self.weights.get(name, 0.0) > 0

    @model_validator(mode="after")
    def _something_must_be_paid(self) -> Self:
        if not sum(self.weights.values()):
            told = ", ".join(f"{name} {weight:g}" for name, weight in self.weights.items())
            raise ValueError(
                f"the weights ({told or 'there are none'}) add up to nothing: give one of them at "
                f"least a weight above 0, such as {REWARD_MODEL}: 1"
            )
        for name in self.functions:
            if not name.isidentifier() or keyword.iskeyword(name):
                raise ValueError(
                    f"weights: {name!r} is no name of a function; write {REWARD_MODEL}, {JUDGE}, "
                    f"or the name of a function in {self.file}"
                )
        if self.functions and not self.trust_code:
            raise ValueError(
                f"weights names {', '.join(self.functions)} of {self.file}, and trust_code is "
                "false: read that file, which will run with all your rights, and set "
                "rewards.trust_code: true"
            )
        return self


def find_rewards_file(folder: Path, rewards: RewardsSettings, key: str) -> Path:
    """The file of the functions, which is read and not run.

    Raises SettingsError, naming `key` and the cure, where it can't be read, is no Python, or has no
    function of a name that is asked for.
    """
    file = (folder / Path(rewards.file).expanduser()).resolve()
    try:
        source = file.read_bytes()
    except OSError as error:
        raise SettingsError(
            f"{key}: {file} can't be read ({error.strerror}), and weights names "
            f"{', '.join(rewards.functions)}: write it with `{SHAPE}`, or take them out"
        ) from None
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError) as error:
        line = getattr(error, "lineno", None)
        where = f", line {line}" if line else ""
        raise SettingsError(f"{file}{where}: is no Python ({error}): correct it") from None
    bound = set(_bound(tree.body))
    for name in rewards.functions:
        # What `from x import *` brings shows when it runs.
        if name not in bound and "*" not in bound:
            there = _functions(tree.body)
            close = difflib.get_close_matches(name, there, n=1)
            hint = (
                f"did you mean {close[0]!r}?" if close else f"it has {', '.join(there) or 'none'}"
            )
            raise SettingsError(f"{key}: {file} has no function {name!r}; {hint}")
    return file


def _functions(body: list[ast.stmt]) -> list[str]:
    return [at.name for at in body if isinstance(at, ast.FunctionDef | ast.AsyncFunctionDef)]


def _bound(body: list[ast.stmt]) -> Iterator[str]:
    """The names that a module's own lines give a meaning, those below if, try and with too."""
    for statement in body:
        if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield statement.name
            continue
        if isinstance(statement, ast.Import | ast.ImportFrom):
            yield from ((alias.asname or alias.name).split(".")[0] for alias in statement.names)
            continue
        for part in ast.walk(statement):
            if isinstance(part, ast.Name) and isinstance(part.ctx, ast.Store):
                yield part.id
        for below in ("body", "orelse", "finalbody"):
            yield from _bound(getattr(statement, below, []))
        for handler in getattr(statement, "handlers", []):
            yield from _bound(handler.body)
