"""What a writer and a judge are told: `templates.json`, its placeholders, and our own texts.

A judge's is told within a question (`judge.questions`), a writer's within a wish (`writer`).
"""

from __future__ import annotations

import difflib
import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from chatllama_pipeline.data.own.personal import TEMPLATES_FILE
from chatllama_pipeline.errors import DataError

# Key -> the placeholders it may hold. The keys are ChatLLaMA's: by `actor` and `rlhf` a writer
# makes conversations and prompts, by `reward` a judge scores; its two come together or not at all.
PLACEHOLDERS: dict[str, tuple[str, ...]] = {
    "actor": ("examples",),
    "reward": ("user_input", "completion"),
    "rlhf": ("examples",),
}
DEFAULTS: dict[str, str] = {
    "actor": (
        "The assistant helps people with questions of daily life and work. It is friendly, "
        "precise and honest: it answers what was asked, says what it does not know, and is as "
        "short as the question allows."
    ),
    "reward": (
        "A reply of an AI assistant is scored from 0 (worthless) to 5 (could not be better) by "
        "three things:\n"
        "- text quality: correct, clear and pleasant to read, in the language of the user;\n"
        "- content quality: true, helpful, complete, and about what was asked;\n"
        "- coherence: one thought follows from the other, and nothing contradicts itself.\n"
        "0: none of the three. 1: hardly any. 2: more wrong than right. 3: usable with flaws. "
        "4: good. 5: excellent in all three. Length alone earns nothing."
    ),
    "rlhf": (
        "People write to an AI assistant that helps with questions of daily life and work. What "
        "they write differs in topic, tone, length and difficulty."
    ),
}
_HEADINGS = {
    "user_input": "The user's input:",
    "completion": "The reply:",
    "examples": "Examples:",
}
# How a rubric names what stands elsewhere in the request.
_SPOKEN = {"user_input": "(the user's input)", "completion": "(the reply)", "examples": ""}
# {{word}} is a literal {word}; other braces, such as those of JSON, are no placeholders.
_PLACEHOLDER = re.compile(r"\{\{([A-Za-z_]\w*)\}\}|\{([A-Za-z_]\w*)\}")
_HASH_DIGITS = 12


@dataclass(frozen=True)
class Template:
    """A text with checked placeholders; `own` says that it came from the user's file."""

    key: str
    text: str
    own: bool = False

    @property
    def hash(self) -> str:
        """12 hexadecimal digits that change with the text."""
        return hashlib.sha256(self.text.encode()).hexdigest()[:_HASH_DIGITS]

    @property
    def spoken(self) -> str:
        """The text with its placeholders named in words: for requests that fill in elsewhere."""
        return _replace(self.text, _SPOKEN).strip()

    def fill(self, sections: Mapping[str, str]) -> str:
        """The text with a section for each of its placeholders.

        A template without placeholders gets every section appended under a heading, as in the
        original; an empty section is left out.
        """
        if placeholders_of(self.text):
            return _replace(self.text, {**dict.fromkeys(PLACEHOLDERS[self.key], ""), **sections})
        appended = [f"{_HEADINGS[name]}\n{text}" for name, text in sections.items() if text]
        return "\n\n".join([self.text.strip(), *appended])


def placeholders_of(text: str) -> list[str]:
    """The names between single braces, in the order of their first use."""
    return list(dict.fromkeys(found[2] for found in _PLACEHOLDER.finditer(text) if found[2]))


def load_templates(personal: Path) -> dict[str, Template]:
    """A template for each key: the user's from that version of `personal_data`, else our own.

    Raises DataError with every unknown or missing placeholder, its key, and the cure.
    """
    file = personal / TEMPLATES_FILE
    written: dict[str, str] = json.loads(file.read_text("utf-8")) if file.is_file() else {}
    faults = [fault for key, text in written.items() for fault in template_faults(key, text)]
    if faults:
        raise DataError("\n".join(faults))
    return {
        key: Template(key, written.get(key, default), key in written)
        for key, default in DEFAULTS.items()
    }


def template_faults(key: str, text: str) -> list[str]:
    """What is wrong with the placeholders of a template, one line each."""
    known, used = PLACEHOLDERS[key], placeholders_of(text)
    where = f"{TEMPLATES_FILE}, key {key}"
    faults = []
    for name in used:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean {{{near[0]}}}? " if near else ""
            listed = ", ".join(f"{{{each}}}" for each in known)
            faults.append(
                f"{where}: unknown placeholder {{{name}}}; {hint}There are: {listed}. Write "
                f"{{{{{name}}}}} where braces are meant"
            )
    missing = [name for name in known if name not in used]
    if key == "reward" and missing and len(missing) < len(known):
        faults.append(
            f"{where}: the placeholder {{{missing[0]}}} is missing; write it where that text shall "
            "stand, or take the other out too: then both are appended"
        )
    return faults


def _replace(text: str, sections: Mapping[str, str]) -> str:
    # One pass: braces in what is filled in are never looked at.
    return _PLACEHOLDER.sub(
        lambda found: f"{{{found[1]}}}" if found[1] else sections[found[2]], text
    )
