"""What a chat template makes of a conversation, as text."""

from __future__ import annotations

import functools
import string
from collections.abc import Mapping
from datetime import date
from typing import Any, NamedTuple

from jinja2 import TemplateError, meta, nodes
from transformers.utils.chat_template_utils import _compile_jinja_template

from chatllama_pipeline.errors import SettingsError
from chatllama_pipeline.models.chat.thoughts import (
    end_of_thought,
    may_hold_thoughts,
    opened_thought,
)
from chatllama_pipeline.records import Message, Prompt

# The day that templates naming one (Llama 3.2's) are told in training and evaluation: a training
# that goes on tomorrow reads the same ids. It is the one that Llama 3.2's template falls back to.
TEMPLATE_DAY = date(2024, 7, 26)
# What a template is asked with, to see what it does; words that none has of its own.
RULE, QUESTION, ANSWER = "what is ruled", "what is asked", "what is said"
# What transformers and we tell a template by ourselves.
_GIVEN = {"messages", "tools", "documents", "add_generation_prompt", "continue_final_message"}


def rendered(
    tokenizer: Any, turns: Prompt, day: date = TEMPLATE_DAY, *, whole: bool = False
) -> str:
    """`turns` as the text that the chat template makes of them; if not `whole`, a reply follows.

    Where the template knows no system turn (Gemma, Mistral, Phi-3), which it says by an error or
    by leaving its words out, they open the user's first.
    """
    has_system = len(turns) > 1 and turns[0].role == "system"
    if has_system and not _knows_system(tokenizer, tokenizer.chat_template):
        return rendered(tokenizer, _without_system(turns), day, whole=whole)
    try:
        return _applied(tokenizer, turns, day, whole)
    except TemplateError:
        if not has_system:
            raise
        return rendered(tokenizer, _without_system(turns), day, whole=whole)


def _applied(tokenizer: Any, turns: Prompt, day: date, whole: bool) -> str:
    text: str = tokenizer.apply_chat_template(
        [{"role": turn.role, "content": turn.content} for turn in turns],
        tokenize=False,
        add_generation_prompt=not whole,
        chat_template=_on_a_day(tokenizer.chat_template, day),
    )
    return text


def _on_a_day(template: str, day: date) -> str:
    """`template`, to which it is `day` however it asks."""
    return f"{_clock(day)}{template}" if "strftime_now" in template else template


@functools.lru_cache(maxsize=8)
def _clock(day: date) -> str:
    """What a template asks for the day by, as a macro that stands before transformers' own."""
    codes = [f"%{flag}{letter}" for flag in ("", "-") for letter in string.ascii_letters]
    said = ", ".join(f"({code!r}, {day.strftime(code)!r})" for code in codes)
    return (
        "{% macro strftime_now(format) %}{% set told = namespace(text=format) %}"
        f"{{% for code, said in [{said}] %}}"
        "{% set told.text = told.text.replace(code, said) %}{% endfor %}"
        "{{ told.text }}{% endmacro %}{{ '' }}"
    )


def _without_system(turns: Prompt) -> Prompt:
    return [Message("user", f"{turns[0].content}\n\n{turns[1].content}"), *turns[2:]]


@functools.lru_cache(maxsize=16)
def _knows_system(tokenizer: Any, template: str) -> bool:
    try:
        turns = [Message("system", RULE), Message("user", QUESTION)]
        return RULE in _applied(tokenizer, turns, TEMPLATE_DAY, False)
    except TemplateError:
        return False


class ReplyForm(NamedTuple):
    """How a template writes an assistant's last turn.

    `lead` stands between its generation prompt and a reply, `tail` behind the reply; `opened` is
    the thought, if any, that the generation prompt begins. `follows`: the turn goes on from the
    generation prompt; where it doesn't, `lead` is what ends the thought. A reply that isn't
    `verbatim` loses outer white space, one that `thinks` is told apart from thoughts in it.
    """

    lead: str
    tail: str
    opened: str
    follows: bool
    verbatim: bool
    thinks: bool


def reply_form(tokenizer: Any) -> ReplyForm:
    """The form of replies in the tokenizer's chat template."""
    return _reply_form(tokenizer, tokenizer.chat_template)


@functools.lru_cache(maxsize=16)
def _reply_form(tokenizer: Any, template: str) -> ReplyForm:
    asked = [Message("user", QUESTION)]
    prompt = rendered(tokenizer, asked)

    def turn(reply: str) -> str:
        return rendered(tokenizer, [*asked, Message("assistant", reply)], whole=True)

    whole, opened = turn(ANSWER), opened_thought(prompt)
    before, found, tail = whole.rpartition(ANSWER)
    if not found:
        return ReplyForm("", "", opened, follows=False, verbatim=True, thinks=False)
    if not whole.startswith(prompt):
        lead = end_of_thought(opened) if opened else ""
        return ReplyForm(lead, tail, opened, follows=False, verbatim=True, thinks=bool(opened))
    lead = before[len(prompt) :]
    spaced, thought = f"\n {ANSWER} \n", f"<think>\nso\n</think>\n\n{ANSWER}"
    return ReplyForm(
        lead,
        tail,
        opened,
        follows=True,
        verbatim=turn(spaced) == prompt + lead + spaced + tail,
        thinks=turn(thought) != prompt + lead + thought + tail or bool(lead.strip() or opened),
    )


def turn_text(tokenizer: Any, prompt: Prompt, reply: str, form: ReplyForm) -> str:
    """The text of a reply's turn behind `prompt`, from its generation prompt to its end token.

    Thoughts in the reply stand as the template writes them. `form` is the template's `reply_form`,
    or that with another `lead`.
    """
    is_thought = form.thinks and may_hold_thoughts(reply)
    if not is_thought and (form.verbatim or reply == reply.strip()):
        return form.lead + reply
    if form.follows:
        before = rendered(tokenizer, prompt)
        whole = rendered(tokenizer, [*prompt, Message("assistant", reply)], whole=True)
        if whole.startswith(before):
            own = reply_form(tokenizer).lead
            text = whole[len(before) :].removesuffix(form.tail)
            return text if form.lead == own else text.removeprefix(own)
    if is_thought and form.opened:
        mark = form.opened.rstrip()
        begun = reply.lstrip()
        return begun.removeprefix(mark).lstrip("\n") if begun.startswith(mark) else reply
    return form.lead + reply


def known_options(template: str | None) -> list[str]:
    """The names that a chat template reads beside the conversation: `enable_thinking`."""
    if not template:
        return []
    environment = _compile_jinja_template(template).environment
    tree = environment.parse(template)
    read = meta.find_undeclared_variables(tree)
    # A name that the template sets is its own, unless it asks first whether somebody else has.
    own = {name.name for name in tree.find_all(nodes.Name) if name.ctx == "store"}
    asked = {test.node.name for test in tree.find_all(nodes.Test) if _asks_for(test)}
    return sorted(
        name
        for name in read - _GIVEN - set(environment.globals) - (own - asked)
        if not name.endswith(("_token", "_tokens"))
    )


def _asks_for(test: Any) -> bool:
    return test.name in ("defined", "undefined") and isinstance(test.node, nodes.Name)


def check_options(template: str | None, options: Mapping[str, Any], key: str) -> None:
    """Raise SettingsError, naming `key`, for an option that a chat template doesn't know.

    Likewise for a template that is none.
    """
    try:
        known = known_options(template)
    except TemplateError as error:
        raise SettingsError(
            f"{key}.model: its chat template can't be read ({error}): mend chat_template in its "
            "tokenizer_config.json, or remove it to have ours"
        ) from error
    unknown = sorted(set(options) - set(known))
    if unknown:
        told = f"it knows {', '.join(known)}" if known else "it knows none"
        raise SettingsError(
            f"{key}.template_options: the model's chat template has no option "
            f"{', '.join(unknown)}; {told}"
        )


def set_options(tokenizer: Any, options: Mapping[str, Any], key: str) -> None:
    """Write `options` into the tokenizer's chat template as what holds where nobody says else.

    So every stage, and everybody who applies the released template, has the same form. Raises
    SettingsError as `check_options` does.
    """
    template = tokenizer.chat_template
    check_options(template, options, key)
    defaults = "".join(
        f"{{% if {name} is not defined %}}{{% set {name} = {value!r} %}}{{% endif %}}"
        for name, value in options.items()
    )
    if defaults:
        # The expression of nothing keeps a line break that the template may begin with.
        tokenizer.chat_template = f"{defaults}{{{{ '' }}}}{template}"
