"""Which format a row is of, by its fields; and what is told of a row that is of none."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field

from chatllama_pipeline.data.own.errors import told_value
from chatllama_pipeline.data.own.shapes import (
    FIELDS,
    REFUSED,
    SHAPES,
    TABLE_KINDS,
    Kind,
    Shape,
    is_null,
)
from chatllama_pipeline.data.splits import Row

# What our fields are called elsewhere: guesses that a person is asked to confirm.
_ALIASES: dict[str, tuple[str, ...]] = {
    "prompt": (
        "question",
        "query",
        "instruction",
        "input",
        "user_input",
        "user",
        "human",
        "request",
        "problem",
        "text",
        "message",
        "title",
    ),
    "completion": (
        "answer",
        "response",
        "output",
        "reply",
        "assistant",
        "bot",
        "solution",
        "target",
        "text",
    ),
    "score": ("rating", "ratings", "scores", "stars", "grade", "reward", "quality", "label"),
    "chosen": ("better", "preferred", "accepted", "winner", "good", "answer_chosen"),
    "rejected": ("worse", "dispreferred", "loser", "bad", "answer_rejected"),
    "messages": ("conversation", "conversations", "dialog", "dialogue", "turns", "chat"),
}
# What a table's rows are in our own fields, the plainest first.
_WANTED: dict[str, tuple[tuple[str, ...], ...]] = {
    "actor": (("prompt", "completion"), ("messages",)),
    "reward": (("prompt", "completion"), ("prompt", "chosen", "rejected"), ("messages",)),
    "rlhf": (("prompt",), ("messages",)),
}
# Where config.yaml names one of these, a row is meant to be of our own formats.
_OF_OUR_SHAPES = {"prompt", "completion", "chosen", "rejected", "messages"}
_NEAR = 0.8
_FIELDS_TOLD = 12
_FIELD_SETS_KEPT = 1_000


@dataclass(frozen=True)
class Misfit:
    """Why rows with the same fields are of no format: said without their place."""

    told: str


@dataclass
class Recogniser:
    """Finds the format of each row of a table; `mapped` are the fields that config.yaml names."""

    table: str
    mapped: Collection[str] = ()
    _known: dict[frozenset[str], list[Shape]] = field(default_factory=dict)

    def shape_of(self, row: Row) -> Shape | Misfit:
        """The format of a row, or why it is of none. A null counts as no field."""
        present = frozenset(name for name, value in row.items() if not is_null(value))
        shape = self._find(row, present)
        if isinstance(shape, Misfit) and len(present) < len(row):
            # A format whose field is null in this row: the null itself is told.
            whole = self._find(row, frozenset(row))
            return whole if isinstance(whole, Shape) else shape
        return shape

    def _find(self, row: Row, present: frozenset[str]) -> Shape | Misfit:
        if present not in self._known:
            if len(self._known) == _FIELD_SETS_KEPT:
                self._known.clear()
            self._known[present] = [shape for shape in SHAPES if set(shape.needs) <= present]
        every = [shape for shape in self._known[present] if shape.fits(row)]
        if set(self.mapped) & _OF_OUR_SHAPES:
            every = [shape for shape in every if not shape.told or self._is_mapped(shape)]
        best = _winners(every)
        if self.table == "actor" and any(shape.kind in ("scored", "thumb") for shape in best):
            return self._misplaced(best) or self._unknown(present)
        usable = _winners([shape for shape in every if shape.kind in TABLE_KINDS[self.table]])
        if len(usable) == 1:
            return self._unless_scored_elsewhere(usable[0], row, present)
        if usable:
            names = " or ".join(shape.name for shape in usable)
            return Misfit(
                f"may be read as {names}; its fields are {_listed(present)}; "
                f"{_columns(self.table, _WANTED[self.table][0], present)}"
            )
        return self._misplaced(best) or self._unknown(present)

    def _is_mapped(self, shape: Shape) -> bool:
        """Whether config.yaml names a thumb, and the format has one by that name."""
        return "label" in self.mapped and "label" in shape.needs

    def _unless_scored_elsewhere(
        self, shape: Shape, row: Row, present: frozenset[str]
    ) -> Shape | Misfit:
        """A field that may be the score must not be passed over: a judge would be paid for it."""
        if self.table != "reward" or shape.kind not in ("reply", "talk") or "score" in row:
            return shape
        if "label" in self.mapped and "label" in present:
            return Misfit(f"its label {told_value(row['label'])} is no thumb; write true or false")
        near = sorted(name for name in present if _is_like("score", name))
        if not near:
            return shape
        return Misfit(
            f"has no score, and a field {near[0]} that may be one; say so in config.yaml, or give "
            "every row a score, null to have it scored:"
            + _columns(self.table, ("score",), present, with_words=False)
        )

    def _misplaced(self, shapes: list[Shape]) -> Misfit | None:
        kinds: set[Kind] = {shape.kind for shape in shapes}
        if "pair" in kinds:
            return Misfit("is a pair; pairs belong into reward_config.train_dataset_path")
        if kinds & {"scored", "thumb"}:
            return Misfit(
                f"is of {shapes[0].name}, good replies and bad ones: they belong into "
                "reward_config.train_dataset_path"
            )
        return None

    def _unknown(self, present: frozenset[str]) -> Misfit:
        for form in REFUSED:
            if set(form.needs) <= present:
                return Misfit(f"is of {form.name}, which are not read; {form.cure}")
        near = _nearest(self.table, present)
        if near is None:
            return Misfit(
                f"is of no format that is read; its fields are {_listed(present)}; "
                f"{_columns(self.table, _WANTED[self.table][0], present)}"
            )
        missing = [name for name in near.needs if name not in present]
        are = "is" if len(missing) == 1 else "are"
        told = f"the {_fields(missing)} {are} missing; those there are: {_listed(present)}"
        if near.told:
            told += f"; nearest is {near.name} ({near.told})"
        add = "add it" if len(missing) == 1 else "add them"
        # With nothing left over there is nothing to name.
        if present <= {*near.needs, *near.takes}:
            return Misfit(f"{told}; {add}")
        columns = _columns(self.table, _wanted_like(self.table, near), present)
        return Misfit(f"{told}; {add}, or {columns}")


def _fields(names: list[str]) -> str:
    return f"field {names[0]}" if len(names) == 1 else f"fields {' and '.join(names)}"


def _winners(shapes: list[Shape]) -> list[Shape]:
    """Those that no other one beats: by needing the same fields and more, or by its word."""
    return [
        shape
        for shape in shapes
        if not any(
            set(shape.needs) < set(other.needs) or shape.name in other.over for other in shapes
        )
    ]


def _nearest(table: str, present: Collection[str]) -> Shape | None:
    """The format that lacks least, our own first: half of what it needs is there, or more."""
    lacking = [shape for shape in SHAPES if not set(shape.needs) <= set(present)]
    usable = [shape for shape in lacking if shape.kind in TABLE_KINDS[table]]
    shares = [len(set(shape.needs) & set(present)) / len(shape.needs) for shape in usable]
    best = max(shares)
    return usable[shares.index(best)] if best >= 0.5 else None


def _wanted_like(table: str, shape: Shape) -> tuple[str, ...]:
    kind = "messages" if shape.kind == "talk" else "chosen" if shape.kind == "pair" else "prompt"
    return next((w for w in _WANTED[table] if kind in w), _WANTED[table][0])


def _listed(names: Iterable[str]) -> str:
    ordered = sorted(names)
    if not ordered:
        return "none"
    more = f" and {len(ordered) - _FIELDS_TOLD} more" if len(ordered) > _FIELDS_TOLD else ""
    return ", ".join(name[:40] for name in ordered[:_FIELDS_TOLD]) + more


def _is_like(ours: str, name: str) -> bool:
    plain = name.strip().lower().replace(" ", "_")
    if plain in (ours, *_ALIASES[ours]):
        return True
    return difflib.SequenceMatcher(None, plain, ours).ratio() >= _NEAR


def _columns(
    table: str, wanted: tuple[str, ...], present: Collection[str], with_words: bool = True
) -> str:
    """The two lines of config.yaml that would name the fields, guessed where a name is like one."""
    left, found = sorted(present), {}
    for ours in wanted:
        like = [ours] if ours in left else [name for name in left if _is_like(ours, name)]
        if like:
            found[ours] = like[0]
            left.remove(like[0])
    pairs = ", ".join(f"{ours}: {found.get(ours, 'NAME')}" for ours in wanted)
    words = "say in config.yaml which field is which:" if with_words else ""
    return f"{words}\n      data:\n        columns: {{{table}: {{{pairs}}}}}"


def is_known(name: str) -> bool:
    """Whether some format reads a field of that name."""
    return name in FIELDS
