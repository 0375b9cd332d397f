"""Conversations to token ids: the only place where a chat template meets a tokenizer.

The template alone writes control tokens: what people wrote is text, see `plain_text`.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Sequence
from datetime import date
from typing import Any, NamedTuple

from chatllama_pipeline.errors import SettingsError
from chatllama_pipeline.models.chat.control_tokens import ControlTokens
from chatllama_pipeline.models.chat.plain_text import plain_text_of
from chatllama_pipeline.models.chat.rendering import (
    ANSWER,
    QUESTION,
    TEMPLATE_DAY,
    ReplyForm,
    rendered,
    reply_form,
    turn_text,
)
from chatllama_pipeline.models.chat.thoughts import thought_marks
from chatllama_pipeline.models.families.kinds import Kind, kind_of
from chatllama_pipeline.records import Message, Prompt

# Every turn ends in the tokenizer's own end token, so that a reply's end needs no new vocabulary.
# Where the tokenizer knows the role marks as special tokens (ours does) each is one id.
CHAT_TEMPLATE = (
    "{% if bos_token %}{{ bos_token }}{% endif %}"
    "{% for message in messages %}"
    "{{ '<|' + message['role'] + '|>' + message['content'] + eos_token }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)
# An encoder reads a question as it stands, which is what Flan-T5 was taught; T5's vocabulary has
# no angle bracket, so that several turns are told apart by words. The encoder's input ends in the
# end token, as T5's own tokenizer ends it, and so does a reply.
ENCODER_DECODER_TEMPLATE = (
    "{% if messages | length == 1 %}{{ messages[0]['content'] }}{% else %}"
    "{% for message in messages %}"
    "{{ message['role'] | capitalize + ': ' + message['content'] + ' ' }}"
    "{% if message['role'] == 'assistant' and loop.last %}{{ eos_token }}{% endif %}"
    "{% endfor %}{% endif %}"
    "{% if add_generation_prompt %}"
    "{% if messages | length > 1 %}{{ 'Assistant:' }}{% endif %}{{ eos_token }}{% endif %}"
)
# What models name their end token; looked up where neither tokenizer nor config says which it is.
END_TOKENS = ("</s>", "<|endoftext|>", "<eos>", "<|end|>", "[SEP]")


class Example(NamedTuple):
    """A conversation's token ids, of which the first `prompt_length` are the prompt's.

    `cut_turns` old turns of the prompt were left out so that the rest fits.
    """

    ids: list[int]
    prompt_length: int
    cut_turns: int = 0


def ensure_chat_template(tokenizer: Any, config: Any) -> None:
    """Give `tokenizer` what it lacks to chat: an end token, a pad token, a chat template.

    The end token is then the one the model's config names (Galactica's tokenizer names none), and
    so is the pad token, else it is the end token: masks are carried everywhere and never inferred
    from ids. Raises SettingsError where no end token can be found. Encoders get no template.
    """
    if tokenizer.eos_token_id is None:
        tokenizer.eos_token = _end_token(tokenizer, config)
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = _named(tokenizer, config, "pad_token_id") or tokenizer.eos_token
    kind = kind_of(config)
    if isinstance(tokenizer.chat_template, dict):  # some have a second one for tools
        tokenizer.chat_template = tokenizer.chat_template.get("default")
    if tokenizer.chat_template is None and kind is not Kind.ENCODER:
        seq2seq = kind is Kind.ENCODER_DECODER
        tokenizer.chat_template = ENCODER_DECODER_TEMPLATE if seq2seq else CHAT_TEMPLATE


def stop_ids(tokenizer: Any) -> list[int]:
    """The ids that end a reply: first the one the template puts after a turn, then eos."""
    turn_end = _turn_end(tokenizer, tokenizer.chat_template)
    eos = tokenizer.eos_token_id
    return [turn_end] if eos in (None, turn_end) else [turn_end, eos]


def prompt_ids(
    tokenizer: Any, prompt: Prompt, max_length: int, day: date = TEMPLATE_DAY
) -> list[int]:
    """Ids of `prompt` in the tokenizer's chat template, with the generation prompt at the end.

    A prompt longer than `max_length` loses its oldest turns: it is cut before a user's turn, and
    a leading system turn stays. Where not even the last user's turn fits, the over-long ids of
    that turn are returned: the caller drops the row or refuses it. Begins with one BOS where the
    tokenizer or its template writes one, else with none. Where the template names the day, it is
    `day`.
    """
    return shortened_prompt(tokenizer, prompt, max_length, day)[0]


def shortened_prompt(
    tokenizer: Any, prompt: Prompt, max_length: int, day: date = TEMPLATE_DAY
) -> tuple[list[int], int]:
    """`prompt_ids`, and how many turns were cut."""
    ids: list[int] = []
    shortened = prompt
    for shortened in _shortened(prompt):
        ids = _encode(tokenizer, shortened, day)
        if len(ids) <= max_length:
            break
    return ids, len(prompt) - len(shortened)


def conversation(tokenizer: Any, prompt: Prompt, completion: str, max_length: int) -> Example:
    """`prompt`, `completion` as the template writes a reply, and the end token.

    The prompt loses old turns (see `prompt_ids`) until all fits in `max_length`. The completion is
    never cut: what can't fit comes back longer than `max_length`, and the caller drops it.
    """
    reply = _reply_ids(tokenizer, prompt, completion)
    reply.append(stop_ids(tokenizer)[0])
    ids, cut_turns = shortened_prompt(tokenizer, prompt, max_length - len(reply))
    return Example(ids + reply, len(ids), cut_turns)


def whole_conversation(tokenizer: Any, prompt: Prompt, reply: str, max_length: int) -> Example:
    """`prompt` and `reply` as the chat template renders them, to the last character.

    So do models read that somebody trained to score: of a reply they may score what the template
    writes behind its end token. Old turns are cut as in `conversation`, the reply never.
    """
    ids: list[int] = []
    shortened = prompt
    for shortened in _shortened(prompt):
        turns = [*shortened, Message("assistant", reply)]
        ids = _template_ids(tokenizer, turns, TEMPLATE_DAY, whole=True)
        if len(ids) <= max_length:
            break
    before = _template_ids(tokenizer, shortened, TEMPLATE_DAY)
    pairs = zip(ids, before, strict=False)
    start = next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(ids), len(before)))
    return Example(ids, start, len(prompt) - len(shortened))


def question_and_answer(tokenizer: Any, prompt: Prompt, answer: str, max_length: int) -> Example:
    """`prompt` and `answer` as the pair of texts that encoders read, special tokens and all.

    A single turn stands as it is, which is how OpenAssistant's reward models were trained; several
    are told apart as in hh-rlhf. Old turns are cut as in `conversation`, the answer never.
    """
    ids: list[int] = []
    start, shortened = 0, prompt
    for shortened in _shortened(prompt):
        ids, texts = _pair(tokenizer, _as_text(shortened), answer)
        second = [column for column, text in enumerate(texts) if text == 1]
        start = second[0] if second else len(ids) - 1
        if len(ids) <= max_length:
            break
    return Example(ids, start, len(prompt) - len(shortened))


def _pair(tokenizer: Any, first: str, second: str) -> tuple[list[int], Sequence[int | None]]:
    """The ids of a pair of texts, and which of them each belongs to."""
    plain = plain_text_of(tokenizer)
    # What is read by Python code alone doesn't say which text a token is of.
    told = tokenizer.is_fast
    if not told or plain.spells_marks(first) or plain.spells_marks(second):
        return plain.encode_alone(first, second)
    pair = tokenizer(first, second)
    return pair["input_ids"], pair.sequence_ids()


def pair_types(tokenizer: Any) -> list[int]:
    """The types of a pair's first token, of its first text and of its second, as encoders are told.

    Empty where the tokenizer tells none. BERT's are 0, 0 and 1, Funnel's 2, 0 and 1.
    """
    types = tokenizer(QUESTION, ANSWER).get("token_type_ids")
    return [types[0], types[1], types[-1]] if types else []


def text_ids(tokenizer: Any, text: str, *, goes_on: bool) -> list[int]:
    """The ids of a text without a template, and of what the tokenizer puts around any text.

    Where the text `goes_on`, as what a decoder-only model reads does, no end token stands behind
    it, though some tokenizers were saved so that they end every text.
    """
    plain = plain_text_of(tokenizer)
    ids = plain.encode_alone(text).ids if plain.spells_marks(text) else tokenizer.encode(text)
    while goes_on and len(ids) > 1 and ids[-1] == tokenizer.eos_token_id:
        del ids[-1]
    return ids


def _as_text(prompt: Prompt) -> str:
    if len(prompt) == 1:
        return prompt[0].content
    names = {"user": "Human", "assistant": "Assistant", "system": "System"}
    return "\n\n".join(f"{names[turn.role]}: {turn.content}" for turn in prompt)


def _named(tokenizer: Any, config: Any, name: str) -> str | None:
    """The token of an id in a model's config; None where the tokenizer has no such id."""
    token_id = getattr(config.get_text_config(), name, None)
    if not isinstance(token_id, int) or not 0 <= token_id < len(tokenizer):
        return None
    token: str = tokenizer.convert_ids_to_tokens(token_id)
    return token


def _end_token(tokenizer: Any, config: Any) -> str:
    known = tokenizer.get_vocab()
    candidates = (
        _named(tokenizer, config, "eos_token_id"),
        tokenizer.sep_token,
        *END_TOKENS,
    )
    found = next((token for token in candidates if token in known), None)
    if found is None:
        raise SettingsError(
            f"{tokenizer.name_or_path}: the tokenizer has no end token, and neither the model's "
            f"config.json (eos_token_id) nor a usual name ({', '.join(END_TOKENS)}) gives one, so "
            "that no reply could ever end: set eos_token in its tokenizer_config.json"
        )
    return found


def _encode(tokenizer: Any, prompt: Prompt, day: date) -> list[int]:
    # The template writes BOS itself where the model wants one: the tokenizer must not add another.
    ids = _template_ids(tokenizer, prompt, day)
    bos = tokenizer.bos_token_id
    if bos is None:
        return ids
    while ids[:2] == [bos, bos]:
        del ids[0]
    if ids[:1] != [bos] and adds_bos(tokenizer):
        ids.insert(0, bos)
    return ids


def _template_ids(tokenizer: Any, turns: Prompt, day: date, *, whole: bool = False) -> list[int]:
    """The ids of `rendered`, in which what the turns say is text."""
    ids: list[int]
    plain = plain_text_of(tokenizer)
    if guard := _guard(plain, turns):
        text = rendered(tokenizer, _guarded(plain, turns, guard), day, whole=whole)
        ids = plain.encode(text, guard)
    else:
        text = rendered(tokenizer, turns, day, whole=whole)
        ids = tokenizer.encode(text, add_special_tokens=False)
    return ids


def _guard(plain: ControlTokens, turns: Iterable[Message]) -> str:
    """What to guard the turns' marks with; "" where they have none."""
    texts = [turn.content for turn in turns]
    return plain.unused(texts) if any(map(plain.spells_marks, texts)) else ""


def _guarded(plain: ControlTokens, turns: Prompt, guard: str) -> Prompt:
    """The turns, whose marks the template passes on as text.

    A thought that opens an assistant's turn is what the template, too, knows by its marks.
    """
    return [
        Message(
            turn.role,
            plain.guarded(
                turn.content,
                guard,
                thought_marks(turn.content) if turn.role == "assistant" else (),
            ),
        )
        for turn in turns
    ]


def _reply_ids(tokenizer: Any, prompt: Prompt, reply: str) -> list[int]:
    """The ids of a reply in its form, up to its end token."""
    form = trained_form(tokenizer)
    plain = plain_text_of(tokenizer)
    turns = [*prompt, Message("assistant", reply)]
    ids: list[int]
    if plain.spells_marks(reply):
        guard = plain.unused([turn.content for turn in turns])
        *before, last = _guarded(plain, turns, guard)
        ids = plain.encode(turn_text(tokenizer, before, last.content, form), guard)
    else:
        ids = tokenizer.encode(turn_text(tokenizer, prompt, reply, form), add_special_tokens=False)
    return ids


def trained_form(tokenizer: Any) -> ReplyForm:
    """The form in which replies are trained: the template's own, but for a lead of white space
    alone that is no tokens of its own (SentencePiece writes it before any text)."""
    return _trained_form(tokenizer, tokenizer.chat_template)


@functools.lru_cache(maxsize=16)
def _trained_form(tokenizer: Any, template: str) -> ReplyForm:
    form = reply_form(tokenizer)
    if form.lead.strip() or not form.lead:
        return form
    asked = [Message("user", QUESTION)]
    turns = [*asked, Message("assistant", ANSWER)]
    start = len(_template_ids(tokenizer, asked, TEMPLATE_DAY))
    whole = _template_ids(tokenizer, turns, TEMPLATE_DAY, whole=True)
    bare = tokenizer.encode(ANSWER, add_special_tokens=False)
    return form._replace(lead="") if whole[start : start + len(bare)] == bare else form


def adds_bos(tokenizer: Any) -> bool:
    """Whether the tokenizer begins a plain text with BOS by itself, as its model was trained."""
    bos = tokenizer.bos_token_id
    return bos is not None and tokenizer.encode("a")[:1] == [bos]


def _shortened(prompt: Prompt) -> list[Prompt]:
    """`prompt` and its ever shorter tails, each beginning with a user's turn."""
    system = prompt[:1] if prompt and prompt[0].role == "system" else []
    turns = prompt[len(system) :]
    tails = [turns[i:] for i in range(1, len(turns)) if turns[i].role == "user"]
    return [prompt, *(system + tail for tail in tails)]


@functools.lru_cache(maxsize=16)
def _turn_end(tokenizer: Any, template: str) -> int:
    """The special token that the template puts right after an assistant's turn, else eos."""
    # Llama 3's end of a turn is special, and yet has none of the names (eos, pad, ...).
    added = tokenizer.added_tokens_decoder.items()
    special = set(tokenizer.all_special_ids) | {number for number, t in added if t.special}
    ids = tokenizer.encode(reply_form(tokenizer).tail, add_special_tokens=False)
    return int(next((i for i in ids if i in special), tokenizer.eos_token_id))
