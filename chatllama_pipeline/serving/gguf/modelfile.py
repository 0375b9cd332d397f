"""A chat template in Ollama's words, and the Modelfile that names it.

A template of Jinja is a program, one of Ollama's another: what can be said in both is a template
that writes every turn between the same two texts. Whether a model's does is tried.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import date
from typing import Any

from jinja2 import TemplateError

from chatllama_pipeline.models.chat.rendering import (
    ANSWER,
    QUESTION,
    RULE,
    TEMPLATE_DAY,
    rendered,
)
from chatllama_pipeline.records import Message, Prompt
from chatllama_pipeline.serving.loaded import Loaded

_OTHER = "what is asked next"
_ASKED, _SAID = Message("user", QUESTION), Message("assistant", ANSWER)
_RULED, _NEXT = Message("system", RULE), Message("user", _OTHER)
# Another day, another month and another year.
_OTHER_DAY = date(2031, 11, 3)
# What a template must write as it was found to; a thought or a count may make it do otherwise.
TALKS: tuple[Prompt, ...] = (
    [_ASKED],
    [_ASKED, _SAID, _NEXT],
    [_ASKED, _SAID, _NEXT, Message("assistant", "so"), _ASKED],
    [_RULED, _ASKED],
    [_RULED, _ASKED, _SAID, _NEXT],
)


@dataclass(frozen=True)
class TurnForm:
    """The text before and behind each role's words; `lead` opens what has no system turn.

    `generation` is what a reply follows. Where a system turn `opens` the user's, that has nothing
    before its words.
    """

    lead: str
    system: tuple[str, str]
    user: tuple[str, str]
    assistant: tuple[str, str]
    generation: str
    opens: bool

    def text(self, turns: Prompt) -> str:
        """What the template makes of `turns`."""
        around = {"system": self.system, "user": self.user, "assistant": self.assistant}
        parts = [] if turns[0].role == "system" else [self.lead]
        for place, turn in enumerate(turns):
            before, behind = around[turn.role]
            opened = self.opens and place == 1 and turns[0].role == "system"
            parts.append(f"{'' if opened else before}{turn.content}{behind}")
        return "".join(parts) + self.generation

    def in_go(self) -> str:
        """The same as a template of Go's, which is what Ollama reads."""
        before, behind = self.user
        opening = _said(before)
        if self.opens and before:
            opening = f"{{{{ if not $opened }}}}{opening}{{{{ end }}}}{{{{ $opened = false }}}}"
        ruled = _around(*self.system) + ("{{ $opened = true }}" if self.opens else "")
        lead = f"{{{{ if not .System }}}}{_said(self.lead)}{{{{ end }}}}" if self.lead else ""
        return (
            ("{{ $opened := false }}" if self.opens else "")
            + lead
            + '{{ range .Messages }}{{ if eq .Role "system" }}'
            + ruled
            + '{{ else if eq .Role "user" }}'
            + f"{opening}{{{{ .Content }}}}{_said(behind)}"
            + '{{ else if eq .Role "assistant" }}'
            + _around(*self.assistant)
            + "{{ end }}{{ end }}"
            + _said(self.generation)
        )


def turn_form(tokenizer: Any) -> TurnForm | None:
    """The form of the tokenizer's chat template, without a BOS before it; None if it has another.

    llama.cpp puts the BOS there by itself.
    """
    try:
        form = _found(tokenizer)
        if form is None:
            return None
        regular = all(form.text(talk) == _rendered(tokenizer, talk) for talk in TALKS)
        daily = _rendered(tokenizer, TALKS[0], _OTHER_DAY) != _rendered(tokenizer, TALKS[0])
    except TemplateError:
        return None
    return form if regular and not daily else None


def modelfile(release: Loaded, file: str) -> str | None:
    """Ollama's Modelfile for the GGUF `file` beside it; None where Ollama can't say the template.

    It samples as the release does.
    """
    form = turn_form(release.tokenizer)
    if form is None:
        return None
    own = release.model.generation_config
    parameters = {
        "temperature": float(own.temperature) if own.do_sample else 0.0,
        "top_p": own.top_p or 1.0,
        "top_k": own.top_k or 0,
        "min_p": 0.0,
        "repeat_penalty": 1.0,
        "num_ctx": release.context,
        "num_predict": release.max_tokens,
    }
    stops = release.tokenizer.convert_ids_to_tokens(release.stops)
    lines = [
        f"FROM ./{file}",
        f'TEMPLATE """{form.in_go()}"""',
        *(f"PARAMETER {name} {value}" for name, value in parameters.items()),
        *(f"PARAMETER stop {json.dumps(stop, ensure_ascii=False)}" for stop in stops),
    ]
    return "\n".join(lines) + "\n"


def _found(tokenizer: Any) -> TurnForm | None:
    """The form that a few conversations show; whether all others have it is not looked at."""
    opening, (behind, between), end = _cut(_rendered(tokenizer, TALKS[1]), QUESTION, ANSWER, _OTHER)
    behind_user = _whole(tokenizer, [_ASKED]).partition(QUESTION)[2]
    behind_reply = _whole(tokenizer, [_ASKED, _SAID]).partition(ANSWER)[2]
    if not (
        behind.startswith(behind_user)
        and end.startswith(behind_user)
        and between.startswith(behind_reply)
    ):
        return None
    before_user = between.removeprefix(behind_reply)
    if not opening.endswith(before_user):
        return None
    before_rule, (behind_rule,), _ = _cut(_rendered(tokenizer, TALKS[3]), RULE, QUESTION)
    opens = not behind_rule.endswith(before_user)
    return TurnForm(
        lead=opening.removesuffix(before_user),
        system=(before_rule, behind_rule if opens else behind_rule.removesuffix(before_user)),
        user=(before_user, behind_user),
        assistant=(behind.removeprefix(behind_user), behind_reply),
        generation=end.removeprefix(behind_user),
        opens=opens,
    )


def _whole(tokenizer: Any, turns: Prompt) -> str:
    return rendered(tokenizer, turns, whole=True)


def _rendered(tokenizer: Any, turns: Prompt, day: date = TEMPLATE_DAY) -> str:
    text = rendered(tokenizer, turns, day)
    return text.removeprefix(tokenizer.bos_token or "")


def _cut(text: str, *words: str) -> tuple[str, list[str], str]:
    """What stands before, between and behind `words` in `text`."""
    parts: list[str] = []
    for word in words:
        before, _, text = text.partition(word)
        parts.append(before)
    return parts[0], parts[1:], text


def _around(before: str, behind: str) -> str:
    return f"{_said(before)}{{{{ .Content }}}}{_said(behind)}"


def _said(text: str) -> str:
    """`text` as Go says it: spelled, so that nothing in it is trimmed or read as an action."""
    return f"{{{{ {json.dumps(text, ensure_ascii=False)} }}}}" if text else ""
