"""What a stage is about to do with tokens, said before it trains; stops on a contradiction."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from jinja2 import TemplateError

from chatllama_pipeline.errors import SettingsError
from chatllama_pipeline.models.chat.rendering import (
    ANSWER,
    QUESTION,
    RULE,
    known_options,
    rendered,
    reply_form,
)
from chatllama_pipeline.models.chat.template import (
    CHAT_TEMPLATE,
    ENCODER_DECODER_TEMPLATE,
    Example,
    conversation,
    stop_ids,
    trained_form,
)
from chatllama_pipeline.models.families.kinds import Kind, kind_of
from chatllama_pipeline.models.families.manner import ORDINARY, Manner, manner_of
from chatllama_pipeline.models.positions import limit_of, longest_row
from chatllama_pipeline.records import Message, Prompt, user_prompt
from chatllama_pipeline.settings import ActorSettings

_TALK = [Message("user", "what was asked"), Message("assistant", "what was said")]
# As often in a long talk, of which a template may remember a part.
_MANY = 20
# What a template must carry whole; a system turn that it doesn't know opens the user's.
PROBES: dict[str, Prompt] = {
    "a single question": user_prompt(QUESTION),
    "several turns": [*_TALK, Message("user", QUESTION)],
    "a question behind a system turn": [Message("system", RULE), Message("user", QUESTION)],
    "several turns behind a system turn": [
        Message("system", RULE),
        *_TALK,
        Message("user", QUESTION),
    ],
    "many turns": [
        *(
            Message(turn.role, f"{turn.content}, {number} before")
            for number in range(_MANY, 0, -1)
            for turn in _TALK
        ),
        Message("user", QUESTION),
    ],
}
# Letters that a template may escape or straighten, in a text so long that it may be cut.
LETTERS = '\n\n"A" & <b>B</b>:\n\n\t- it\'s C:\\d\n\n'
_FILLER = "and so on, "
_LONG = f"{RULE}{LETTERS}{_FILLER * 1000}{QUESTION}"
_CURE = "mend chat_template in its tokenizer_config.json, or remove it to have ours"


@dataclass(frozen=True)
class Preflight:
    """What was found: the template, the special tokens, and the longest row in tokens."""

    template: str
    bos: str
    end: str
    pad: str
    context: int
    context_of: str
    manner: Manner = ORDINARY
    lead: str = ""
    warnings: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        begins = f"begins with {self.lead!r} and " if self.lead.strip() else ""
        return (
            f"{self.template}; {self.bos}; a reply {begins}ends in {self.end}; "
            f"padded with {self.pad}; at most {self.context} tokens a row ({self.context_of})"
            f"{'' if self.manner.ordinary else f'; {self.manner}'}"
        )


def preflight(tokenizer: Any, config: Any, section: str, max_length: int) -> Preflight:
    """Look at tokenizer and model together, for rows of at most `max_length` tokens.

    `section` is the part of config.yaml that the model is named in. Raises SettingsError where no
    row could be told apart from another, ended, or read.
    """
    rows = getattr(config.get_text_config(), "vocab_size", len(tokenizer))
    if len(tokenizer) > rows:
        raise SettingsError(
            f"{section}.tokenizer_path: the tokenizer has {len(tokenizer)} ids, the model has "
            f"embeddings for {rows}: make the base model again, which looks after that"
        )
    if tokenizer.pad_token_id is None or tokenizer.eos_token_id is None:
        raise SettingsError(
            f"{section}.model: the tokenizer names no {'pad' if tokenizer.eos_token else 'end'} "
            "token: make the base model again, which looks one up"
        )
    pad = _pad(tokenizer)
    context, context_of = context_length(config, tokenizer, section, max_length)
    if kind_of(config) is Kind.ENCODER:
        template, bos = "question and answer are read as a pair of texts", "no chat template"
        end = repr(tokenizer.sep_token)
        return Preflight(template, bos, end, pad, context, context_of)
    probe = _probe(tokenizer, section)
    ends = [repr(token) for token in tokenizer.convert_ids_to_tokens(stop_ids(tokenizer))]
    ours = tokenizer.chat_template in (CHAT_TEMPLATE, ENCODER_DECODER_TEMPLATE)
    return Preflight(
        "our chat template, since the model has none" if ours else "the model's own chat template",
        "one BOS" if probe.ids[0] == tokenizer.bos_token_id else "no BOS, as the model's tokenizer",
        " or ".join(ends),
        pad,
        context,
        context_of,
        manner_of(config),
        trained_form(tokenizer).lead,
        [*_other_forms(tokenizer, config, section), *_rewritten(tokenizer, section)],
    )


def context_length(config: Any, tokenizer: Any, section: str, max_length: int) -> tuple[int, str]:
    """The longest row that both setting and model allow, and which of them it is."""
    limit = longest_row(config, tokenizer)
    if limit is None or limit >= max_length:
        return max_length, f"{section}.max_sequence_length"
    return limit, (
        f"the model's positions, or its tokenizer's limit; {section}.max_sequence_length "
        f"{max_length} is more than it has"
    )


def prompt_room(configs: Mapping[str, Any], tokenizer: Any, actor: ActorSettings) -> int:
    """Tokens that a prompt may have, so that the longest reply still fits behind it.

    `configs` are those of the models that read both, by their roles. Raises SettingsError where
    there is no room.
    """
    lengths = {"actor_config.max_sequence_length": actor.max_sequence_length}
    for role, config in configs.items():
        limit = longest_row(config, tokenizer)
        if limit is not None:
            lengths[f"the {role}'s {limit_of(limit, config)}"] = limit
    name, length = min(lengths.items(), key=lambda item: item[1])
    if actor.max_tokens >= length:
        raise SettingsError(
            f"actor_config.max_tokens {actor.max_tokens} leaves no room for a prompt within {name} "
            f"{length}: set actor_config.max_tokens to {length // 2} or so, or take a model that "
            "reads more"
        )
    return length - actor.max_tokens


def require_room(config: Any, tokenizer: Any, actor: ActorSettings) -> None:
    """`prompt_room` before anything is trained, of a `max_tokens` that is set: a run sets all."""
    if "max_tokens" in actor.model_fields_set:
        prompt_room({"actor": config}, tokenizer, actor)


def rows_in_words(examples: Iterable[Example], left_out: int) -> str:
    """How many rows are used, lost old turns, or were left out for their length."""
    shortened = [example.cut_turns > 0 for example in examples]
    return (
        f"{len(shortened)} rows, {sum(shortened)} of them without their oldest turns; {left_out} "
        "too long and left out"
    )


def _pad(tokenizer: Any) -> str:
    if tokenizer.pad_token_id == tokenizer.eos_token_id:
        return f"{tokenizer.pad_token!r}, the end token, told apart by masks"
    return repr(tokenizer.pad_token)


def _probe(tokenizer: Any, section: str) -> Example:
    """A conversation of one turn; whatever is said must stand in what the template makes of it."""
    for probe, turns in PROBES.items():
        try:
            text = rendered(tokenizer, turns)
        except TemplateError as error:
            raise SettingsError(
                f"{section}.model: its chat template refuses {probe} ({error}): {_CURE}"
            ) from error
        place = 0
        for turn in turns:
            # Some say the system's words last, before the question (Mistral's).
            found = text.find(turn.content, 0 if turn.role == "system" else place)
            place = place if turn.role == "system" else found
            if found < 0:
                raise SettingsError(
                    f"{section}.model: its chat template leaves out what the {turn.role} says "
                    f"({turn.content!r}, of {probe}): {_CURE}"
                )
    return conversation(tokenizer, user_prompt(QUESTION), ANSWER, max_length=10**6)


def _rewritten(tokenizer: Any, section: str) -> list[str]:
    """A warning where the template writes other letters than people do, or leaves some out; raises
    SettingsError where it cuts a long text."""
    text = rendered(tokenizer, user_prompt(_LONG))
    start = text.find(RULE)
    if start < 0 or QUESTION not in text:
        raise SettingsError(
            f"{section}.model: its chat template cuts what the user says (of {len(_LONG):,} "
            f"characters): {_CURE}"
        )
    if _LONG in text:
        return []
    written = text[start + len(RULE) :].partition(_FILLER.strip())[0]
    return [
        f"{section}.model: its chat template rewrites what people say: it makes {written!r} of "
        f"{LETTERS!r}, and so the model reads it, in training and in a chat"
    ]


def _other_forms(tokenizer: Any, config: Any, section: str) -> list[str]:
    """A warning where a conversation is trained in another form than the template's, or where a
    thought begins each reply; it shows both forms."""
    form = reply_form(tokenizer)
    own = [*user_prompt(QUESTION), Message("assistant", ANSWER)]
    if kind_of(config) is Kind.ENCODER_DECODER:
        return []
    if form.follows and not form.opened:
        return _other_talks(tokenizer, section)
    # Templates that name no generation prompt write the same without it.
    before = rendered(tokenizer, user_prompt(QUESTION))
    trained = f"{before}{trained_form(tokenizer).lead}{ANSWER}"
    written = rendered(tokenizer, own, whole=True)
    shown = [_behind_the_question(text) for text in (trained, written)]
    thought = f"opens a thought ({form.opened!r}) before every reply" if form.opened else ""
    told = thought or "writes a reply otherwise than behind its generation prompt"
    options = ", ".join(known_options(tokenizer.chat_template))
    cure = f"; {section}.template_options may choose another form: {options}" if options else ""
    return [
        f"{section}.model: its chat template {told}: a reply is trained as {shown[0]!r}, and the "
        f"template writes {shown[1]!r}{cure}"
    ]


def _other_talks(tokenizer: Any, section: str) -> list[str]:
    """A warning where a talk is written otherwise once it is answered: a reply was trained behind
    the one, and the template's whole conversation is the other (Mistral's may lose the system)."""
    asked = PROBES["several turns behind a system turn"]
    before = rendered(tokenizer, asked)
    answered = rendered(tokenizer, [*asked, Message("assistant", ANSWER)], whole=True)
    if answered.startswith(before):
        return []
    return [
        f"{section}.model: its chat template writes a talk otherwise once it is answered: a reply "
        f"is trained behind {before!r}, and the template writes {answered!r}"
    ]


def _behind_the_question(text: str) -> str:
    behind = text.rpartition(QUESTION)[2]
    return behind[: behind.rfind(ANSWER) + len(ANSWER)]
