"""Every key of `config.yaml` in tables for people, made of the settings classes themselves."""

from __future__ import annotations

import inspect
import json
import re
import types
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import BeforeValidator
from pydantic.fields import FieldInfo
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue, models_json_schema

from chatllama_pipeline.settings.assistant import AssistantSettings
from chatllama_pipeline.settings.section import Section

HEAD = "| key | type | default | range | meaning |\n|---|---|---|---|---|"
# Of JSON schema, in the words of who writes YAML.
TYPES = {
    "boolean": "true or false",
    "integer": "whole number",
    "null": "null",
    "number": "number",
    "object": "mapping",
    "string": "text",
}
BOUNDS = {
    "minimum": "at least {}",
    "exclusiveMinimum": "above {}",
    "maximum": "at most {}",
    "exclusiveMaximum": "below {}",
    "minItems": "{} or more entries",
    "minLength": "{} or more characters",
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
    schemas = _schemas(places)
    for kind, found in places.items():
        prepared = {
            name
            for validator in kind.__pydantic_decorators__.field_validators.values()
            for name in validator.info.fields
            if validator.info.mode != "after"
        }
        properties = schemas[kind]["properties"]
        for name, field in kind.model_fields.items():
            if "$ref" in properties[name]:
                continue
            kinds = re.sub(r"\[([^]]*)\]\(#\)", r"\1", _type(properties[name], anchors))
            value = ", ".join(filter(None, (kinds, _range(properties[name]))))
            told = f"{value}; {_default(field, properties[name])} unless set: {field.description}"
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


class _AsTheyCome(GenerateJsonSchema):
    def sort(self, value: JsonSchemaValue, parent_key: str | None = None) -> JsonSchemaValue:
        return value  # nobody reads the order of a schema's keys


def _schemas(kinds: Iterable[type[Section]]) -> dict[type[Section], dict[str, Any]]:
    """Each class's JSON schema, all made at once: one by one, each makes those below it again."""
    listed = list(kinds)
    references, schema = models_json_schema(
        [(kind, "validation") for kind in listed], schema_generator=_AsTheyCome
    )
    names = {kind: references[kind, "validation"]["$ref"].rsplit("/", 1)[1] for kind in listed}
    return {kind: schema["$defs"][name] for kind, name in names.items()}


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
    if isinstance(annotation, type) and issubclass(annotation, Section):
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
    properties = kind.model_json_schema()["properties"]
    links = {nested.__name__: _anchor(told) for nested, told in places.items()}
    rows = [HEAD]
    for name in names:
        schema = properties[name]
        described = kind.model_fields[name].description or ""
        default = _default(kind.model_fields[name], schema)
        cells = [f"`{name}`", _type(schema, links), default, _range(schema), described]
        rows.append(f"| {' | '.join(map(_cell, cells))} |")
    return "\n".join(rows)


def _type(schema: dict[str, Any], links: dict[str, str]) -> str:
    """What kind of value a key takes; a section's is a link to its keys."""
    if "$ref" in schema:
        return f"[these keys](#{links[schema['$ref'].rsplit('/', 1)[1]]})"
    if "anyOf" in schema:
        return " or ".join(dict.fromkeys(_type(part, links) for part in schema["anyOf"]))
    if "enum" in schema or "const" in schema:
        values = schema.get("enum", [schema.get("const")])
        return ", ".join(f"`{_value(value)}`" for value in values)
    if schema.get("type") == "array":
        if "prefixItems" in schema:
            return f"[{', '.join(_type(part, links) for part in schema['prefixItems'])}]"
        return f"list ({_type(schema['items'], links)})"
    if isinstance(schema.get("additionalProperties"), dict):
        names = _type(schema["propertyNames"], links) if "propertyNames" in schema else "names"
        return f"{names}, each with {_type(schema['additionalProperties'], links)}"
    return TYPES[schema["type"]]


def _default(field: FieldInfo, schema: dict[str, Any]) -> str:
    if field.is_required():
        return "must be given"
    # A section's default is its keys' own.
    if "$ref" in schema:
        return ""
    return f"`{_value(schema.get('default', field.get_default(call_default_factory=True)))}`"


def _range(schema: dict[str, Any]) -> str:
    # What a tuple is made of says how many there are.
    parts = [part for part in (schema, *schema.get("anyOf", ())) if "prefixItems" not in part]
    return ", ".join(
        told.format(part[bound])
        for part in parts
        for bound, told in BOUNDS.items()
        if bound in part
    )


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
