"""Every key of `config.yaml` in tables for people, made of the settings classes themselves."""

from __future__ import annotations

import inspect
import json
import re
import types
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BeforeValidator
from pydantic.fields import FieldInfo

from chatllama_pipeline.settings.assistant import AssistantSettings
from chatllama_pipeline.settings.section import Section

HEAD = "| key | type | default | range | meaning |\n|---|---|---|---|---|"
# In the words of who writes YAML.
TYPES = {
    bool: "true or false",
    int: "whole number",
    types.NoneType: "null",
    float: "number",
    dict: "mapping",
    str: "text",
}
# By their names in annotated_types and pydantic.
BOUNDS = {
    "ge": "at least {}",
    "gt": "above {}",
    "le": "at most {}",
    "lt": "below {}",
    "min_length": "{} or more entries",
    "pattern": "`{}`",
}


@dataclass(frozen=True)
class Key:
    """A key by its dotted name; `told` is its kind of value, range and meaning in words.

    A `prepared` one takes other kinds of values than its annotation says, and makes them that.
    """

    dotted: str
    annotation: Any
    prepared: bool
    told: str


def every_key() -> Iterator[Key]:
    """All keys, but for those below names that people choose."""
    places: dict[type[Section], list[str]] = {
        AssistantSettings: [""],
        **dict(_places(AssistantSettings)),
    }
    anchors = {kind.__name__: "" for kind in places}
    for kind, found in places.items():
        prepared = {
            name
            for validator in kind.__pydantic_decorators__.field_validators.values()
            for name in validator.info.fields
            if validator.info.mode != "after"
        }
        for name, field in kind.model_fields.items():
            if _is_section(field.annotation):
                continue
            kinds = re.sub(r"\[([^]]*)\]\(#\)", r"\1", _type(field.annotation, anchors))
            value = ", ".join(filter(None, (kinds, _range(field))))
            told = f"{value}; {_default(field)} unless set: {field.description}"
            by_metadata = any(isinstance(part, BeforeValidator) for part in field.metadata)
            for place in (place for place in found if ".NAME" not in place):
                dotted = f"{place}.{name}".lstrip(".")
                yield Key(dotted, field.annotation, name in prepared or by_metadata, told)


def settings_tables() -> str:
    """The sections with links, and a table of keys for each; in Markdown.

    What several sections have, such as `lora`, stands once, under all its places. A key has no
    meaning here but its field's description.
    """
    places = dict(_places(AssistantSettings))
    top = ["| section | what it sets |", "|---|---|"]
    for name, field in AssistantSettings.model_fields.items():
        anchor = next((_anchor(told) for told in places.values() if told[0] == name), "")
        key = f"[`{name}`](#{anchor})" if anchor else f"`{name}`"
        top.append(f"| {key} | {_cell(field.description or '')} |")
    plain = [name for name in AssistantSettings.model_fields if [name] not in places.values()]
    parts = ["\n".join(top), _table(AssistantSettings, plain, places)]
    for kind, told in places.items():
        marks = "##" if told[0] in AssistantSettings.model_fields else "###"
        meaning = inspect.getdoc(kind) or ""
        parts += [f"{marks} {_heading(told)}", re.sub(r"^`\w+`: (\w)", _capital, meaning)]
        parts.append(_table(kind, ordered_fields(kind), places))
    return "\n\n".join(parts)


def ordered_fields(kind: type[Section]) -> list[str]:
    """A section's keys, its own before those it shares with others."""
    names: dict[str, None] = {}
    for base in kind.__mro__:
        names.update(dict.fromkeys(inspect.get_annotations(base)))
    return [name for name in names if name in kind.model_fields]


def _places(kind: type[Section]) -> Iterator[tuple[type[Section], list[str]]]:
    """Each class below `kind`, and the dotted keys at which it stands."""
    found: dict[type[Section], list[str]] = {}

    def walk(section: type[Section], prefix: str) -> None:
        for name in ordered_fields(section):
            for nested, below in _sections_in(section.model_fields[name].annotation):
                place = f"{prefix}{name}{below}"
                if place not in found.setdefault(nested, []):
                    found[nested].append(place)
                walk(nested, f"{place}.")

    walk(kind, "")
    yield from found.items()


def _sections_in(annotation: Any) -> Iterator[tuple[type[Section], str]]:
    """The settings classes in a type, and what stands between the key and theirs."""
    if _is_section(annotation):
        yield annotation, ""
        return
    origin, inner = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        yield from _sections_in(inner[0])
    elif origin in (Union, types.UnionType, list):
        for part in inner:
            yield from _sections_in(part)
    elif origin is dict:
        yield from ((kind, f".NAME{below}") for kind, below in _sections_in(inner[1]))


def _table(kind: type[Section], names: list[str], places: dict[type[Section], list[str]]) -> str:
    links = {nested.__name__: _anchor(told) for nested, told in places.items()}
    rows = [HEAD]
    for name in names:
        field = kind.model_fields[name]
        kinds = _type(field.annotation, links)
        cells = [f"`{name}`", kinds, _default(field), _range(field), field.description or ""]
        rows.append(f"| {' | '.join(map(_cell, cells))} |")
    return "\n".join(rows)


def _is_section(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, Section)


def _type(annotation: Any, links: dict[str, str]) -> str:
    """What kind of value a key takes; a section's is a link to its keys."""
    if _is_section(annotation):
        return f"[these keys](#{links[annotation.__name__]})"
    origin, inner = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _type(inner[0], links)
    if origin in (Union, types.UnionType):
        return " or ".join(dict.fromkeys(_type(part, links) for part in inner))
    if origin is Literal:
        return ", ".join(f"`{_value(value)}`" for value in inner)
    if origin is tuple and inner[-1] is not Ellipsis:
        return f"[{', '.join(_type(part, links) for part in inner)}]"
    if origin in (list, tuple):
        return f"list ({_type(inner[0], links)})"
    if origin is dict and inner[1] is not Any:
        names = "names" if inner[0] is str else _type(inner[0], links)
        return f"{names}, each with {_type(inner[1], links)}"
    return TYPES[origin or annotation]


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "must be given"
    # A section's default is its keys' own.
    if _is_section(field.annotation):
        return ""
    return f"`{_value(field.get_default(call_default_factory=True))}`"


def _range(field: FieldInfo) -> str:
    return ", ".join(_bounds(field.annotation, field.metadata))


def _bounds(annotation: Any, metadata: Sequence[Any]) -> Iterator[str]:
    """What a value keeps within, in words; of a list, how many entries, and not what they are."""
    inner = get_args(annotation)
    if get_origin(annotation) is Annotated:
        own = [mark for part in inner[1:] for mark in getattr(part, "metadata", [part])]
        yield from _bounds(inner[0], [*own, *metadata])
    elif get_origin(annotation) in (Union, types.UnionType):
        for part in inner:
            if part is not types.NoneType:
                yield from _bounds(part, metadata)
    else:
        for mark in metadata:
            for bound, told in BOUNDS.items():
                if (value := getattr(mark, bound, None)) is not None:
                    words = told.replace("entries", "characters") if annotation is str else told
                    yield words.format(value)


def _value(value: Any) -> str:
    """A value as YAML takes it."""
    return value if isinstance(value, str) and value else json.dumps(value)


def _heading(places: list[str]) -> str:
    return ", ".join(f"`{place}`" for place in places)


def _anchor(places: list[str]) -> str:
    """The anchor that GitHub gives the heading of these places."""
    return re.sub(r"[^\w\- ]", "", _heading(places).lower()).replace(" ", "-")


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def _capital(match: re.Match[str]) -> str:
    return match[1].upper()
