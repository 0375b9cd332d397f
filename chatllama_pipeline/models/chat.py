"""Conversations to token ids: the only place where a chat template meets a tokenizer."""

from __future__ import annotations

import functools
import re
from datetime import date
from typing import Any, NamedTuple

from jinja2 import TemplateError

from chatllama_pipeline.errors import SettingsError
from chatllama_pipeline.models.kinds import Kind, kind_of
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
# The day that templates naming one (Llama 3.2's) are told in training and evaluation: a training
# that goes on tomorrow reads the same ids. It is the one that Llama 3.2's template falls back to.
TEMPLATE_DAY = date(2024, 7, 26)
NAMED_DAY = re.compile(r"""strftime_now\(\s*(['"])(.*?)\1\s*\)""")


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
    """`prompt`, `completion` and the end token.

    The prompt loses old turns (see `prompt_ids`) until all fits in `max_length`. The completion is
    never cut: what can't fit comes back longer than `max_length`, and the caller drops it.
    """
    reply = tokenizer.encode(completion, add_special_tokens=False)
    reply.append(stop_ids(tokenizer)[0])
    ids, cut_turns = shortened_prompt(tokenizer, prompt, max_length - len(reply))
    return Example(ids + reply, len(ids), cut_turns)


def question_and_answer(tokenizer: Any, prompt: Prompt, answer: str, max_length: int) -> Example:
    """`prompt` and `answer` as the pair of texts that encoders read, special tokens and all.

    A single turn stands as it is, which is how OpenAssistant's reward models were trained; several
    are told apart as in hh-rlhf. Old turns are cut as in `conversation`, the answer never.
    """
    ids: list[int] = []
    start, shortened = 0, prompt
    for shortened in _shortened(prompt):
        pair = tokenizer(_as_text(shortened), answer)
        ids = pair["input_ids"]
        second = [column for column, text in enumerate(pair.sequence_ids()) if text == 1]
        start = second[0] if second else len(ids) - 1
        if len(ids) <= max_length:
            break
    return Example(ids, start, len(prompt) - len(shortened))


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
    ids: list[int] = tokenizer.encode(rendered(tokenizer, prompt, day), add_special_tokens=False)
    bos = tokenizer.bos_token_id
    if bos is None:
        return ids
    while ids[:2] == [bos, bos]:
        del ids[0]
    if ids[:1] != [bos] and adds_bos(tokenizer):
        ids.insert(0, bos)
    return ids


def adds_bos(tokenizer: Any) -> bool:
    """Whether the tokenizer begins a plain text with BOS by itself, as its model was trained."""
    bos = tokenizer.bos_token_id
    return bos is not None and tokenizer.encode("a")[:1] == [bos]


def rendered(tokenizer: Any, prompt: Prompt, day: date = TEMPLATE_DAY) -> str:
    """`prompt` as the text that the chat template makes of it, with the generation prompt."""
    messages = [{"role": turn.role, "content": turn.content} for turn in prompt]
    try:
        text: str = tokenizer.apply_chat_template(
            messages,
            tokenize=False,
            add_generation_prompt=True,
            chat_template=NAMED_DAY.sub(
                lambda call: repr(day.strftime(call[2])), tokenizer.chat_template
            ),
        )
    except TemplateError:
        # Some models know no system turn (Gemma, Mistral): it then opens the user's first.
        if len(prompt) < 2 or prompt[0].role != "system":
            raise
        opening = Message("user", f"{prompt[0].content}\n\n{prompt[1].content}")
        return rendered(tokenizer, [opening, *prompt[2:]], day)
    return text


def _shortened(prompt: Prompt) -> list[Prompt]:
    """`prompt` and its ever shorter tails, each beginning with a user's turn."""
    system = prompt[:1] if prompt and prompt[0].role == "system" else []
    turns = prompt[len(system) :]
    tails = [turns[i:] for i in range(1, len(turns)) if turns[i].role == "user"]
    return [prompt, *(system + tail for tail in tails)]


@functools.lru_cache(maxsize=16)
def _turn_end(tokenizer: Any, template: str) -> int:
    """The special token that the template puts right after an assistant's turn, else eos."""
    mark = "reply"
    messages = [{"role": "user", "content": "prompt"}, {"role": "assistant", "content": mark}]
    text = tokenizer.apply_chat_template(messages, tokenize=False)
    tail = text[text.rindex(mark) + len(mark) :]
    # Llama 3's end of a turn is special, and yet has none of the names (eos, pad, ...).
    added = tokenizer.added_tokens_decoder.items()
    special = set(tokenizer.all_special_ids) | {number for number, t in added if t.special}
    ids = tokenizer.encode(tail, add_special_tokens=False)
    return int(next((i for i in ids if i in special), tokenizer.eos_token_id))
