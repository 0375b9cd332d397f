"""docs/settings.md has every key of config.yaml as the settings classes have it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from chatllama_pipeline.settings import AssistantSettings
from chatllama_pipeline.settings.reference import ordered_fields, settings_tables
from chatllama_pipeline.settings.section import Section
from tests.docs.pages import PAGES

PAGE = PAGES["docs/settings.md"]


def rows() -> dict[str, list[str]]:
    """Dotted key -> the cells of its row: type, default, range, meaning."""
    found = {}
    prefixes = [""]
    for line in PAGE.splitlines():
        if line.startswith("##"):
            prefixes = [f"{place}." for place in re.findall(r"`([\w.]+)`", line)]
        elif match := re.match(r"\| `(\w+)` \|(.*)\|$", line):
            cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", match[2])]
            found.update({f"{prefix}{match[1]}": cells for prefix in prefixes})
    return found


def keys_of(settings: Section, prefix: str = "") -> Iterator[str]:
    """Every dotted key of an assistant's settings, a section's own below it."""
    for name in type(settings).model_fields:
        value = getattr(settings, name)
        if isinstance(value, Section):
            yield from keys_of(value, f"{prefix}{name}.")
        else:
            yield prefix + name


def settings_classes(kind: type[Section] = Section) -> Iterator[type[Section]]:
    for below in kind.__subclasses__():
        yield below
        yield from settings_classes(below)


ROWS = rows()
KEYS = sorted(keys_of(AssistantSettings()))


def test_the_page_is_what_the_settings_classes_say() -> None:
    assert settings_tables() in PAGE, "run `make docs`"


def test_every_key_of_config_yaml_has_its_row() -> None:
    assert len(KEYS) > 150
    # Beside them stands `rubric`, a list, whose entries have keys.
    assert [key for key in KEYS if key not in ROWS and key != "rubric"] == []


@pytest.mark.parametrize("kind", sorted(set(settings_classes()), key=str), ids=lambda k: k.__name__)
def test_every_setting_says_what_it_means(kind: type[Section]) -> None:
    silent = [name for name, field in kind.model_fields.items() if not field.description]
    assert silent == [], f"{kind.__name__}: give it a Field(description=...)"
    assert sorted(ordered_fields(kind)) == sorted(kind.model_fields)


def test_every_default_of_the_page_is_the_default() -> None:
    settings = AssistantSettings()
    for key in KEYS:
        if key not in ROWS:
            continue
        told = yaml.safe_load(ROWS[key][1].strip("`"))
        given: Any = told
        for part in reversed(key.split(".")):
            given = {part: given}
        assert AssistantSettings.model_validate(given) == settings, f"{key}: {told}"


@pytest.mark.parametrize(
    ("key", "kind", "default", "span"),
    [
        ("seed", "whole number", "`0`", "at least 0"),
        ("data.label_noise", "number", "`0.0`", "at least 0, at most 0.5"),
        ("data.sources.NAME.count", "whole number or null", "`null`", "at least 1"),
        ("llm.base_url", "text or null", "`null`", "`^https?://`"),
        ("evaluation.judge.provider", "`none`, `rules`, `rubric`, `openai`, `transformers` or null",
         "`null`", ""),
        ("actor_config.template_options", "mapping", "`{}`", ""),
        ("critic_config.lora.r", "whole number", "`8`", "at least 1"),
        ("rubric.name", "text", "must be given", "1 or more characters"),
    ],
)  # fmt: skip
def test_a_row_says_type_default_and_range(key: str, kind: str, default: str, span: str) -> None:
    assert ROWS[key][:3] == [kind, default, span]
