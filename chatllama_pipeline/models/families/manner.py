"""How a model is run where the ordinary way would give wrong numbers; kept in its config.

`actor_base` and `reward_base` alone decide, by trying (`models.probe`): they write the manner into
the config of the folder they publish, whatever the model's own config says, and later stages follow
it.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

MANNER = "chatllama_manner"
Steps = Literal["cached", "rows stay", "whole"]
SAID: dict[Steps, str] = {
    "cached": "token by token",
    "rows stay": "token by token, with the rows that have stopped among the others",
    "whole": "from the whole row at every token, since its cache is of no use here",
}


@dataclass(frozen=True)
class Manner:
    """`steps`: how replies are decoded; `left_padded`: whether padding may stand before a row.

    `cached` keeps what was read in the model's cache, and rows that have stopped leave it;
    `rows stay` is for caches that no row can leave; `whole` reads the row again for every token.
    """

    steps: Steps = "cached"
    left_padded: bool = True

    @property
    def ordinary(self) -> bool:
        return self == ORDINARY

    def __str__(self) -> str:
        padded = "" if self.left_padded else "; padded on the right alone"
        return f"decodes {SAID[self.steps]}{padded}"


ORDINARY = Manner()


def manner_of(config: Any) -> Manner:
    """The manner in a model's config; the ordinary one where there is none."""
    return Manner(**(getattr(config, MANNER, None) or {}))


def set_manner(config: Any, manner: Manner) -> None:
    """Put `manner` into a config; the ordinary one leaves no trace."""
    vars(config).pop(MANNER, None)
    if not manner.ordinary:
        setattr(config, MANNER, asdict(manner))
