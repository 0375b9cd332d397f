"""What holds of every tokenizer that an assistant is made with, ours and published ones."""

from __future__ import annotations

from typing import Any

from chatllama_pipeline.models.chat.template import conversation, prompt_ids, stop_ids
from chatllama_pipeline.records import Message, user_prompt

ROOM = 2048
TALK = [
    Message("system", "alpha"),
    Message("user", "bravo"),
    Message("assistant", "charlie"),
    Message("user", "delta"),
]
TEXTS = [
    "It is 4.",
    "Don't , please !  Two  spaces, it 's odd .",
    "naïve façade, Ærøskøbing, ﬁ",
    "今天天气很好。",
    "العربية και ελληνικά",
    "👩‍👩‍👧 🇩🇰 ok",
    "def f(x):\n\treturn x ** 2  # 1234567890\n",
    "a\n\n\nb",
]


def begins_with_one_bos_or_none(tokenizer: Any) -> None:
    ids, bos = prompt_ids(tokenizer, user_prompt("alpha"), ROOM), tokenizer.bos_token_id
    if bos is None:
        return
    assert ids[:2] != [bos, bos]
    if tokenizer.encode("a")[:1] == [bos]:
        assert ids[0] == bos


def a_reply_ends_in_a_token_that_stops(tokenizer: Any) -> None:
    example = conversation(tokenizer, user_prompt("alpha"), "bravo", ROOM)
    assert example.ids[-1] == stop_ids(tokenizer)[0]
    reply = example.ids[example.prompt_length : -1]
    assert not set(stop_ids(tokenizer)) & set(reply)
    assert tokenizer.decode(reply).strip().endswith("bravo")
    assert tokenizer.pad_token_id is not None


def every_turn_is_read_the_systems_too(tokenizer: Any) -> None:
    text = tokenizer.decode(prompt_ids(tokenizer, TALK, ROOM))
    positions = [text.index(turn.content) for turn in TALK]
    assert positions == sorted(positions)


def a_reply_is_decoded_to_what_was_written(tokenizer: Any) -> None:
    for text in TEXTS:
        example = conversation(tokenizer, user_prompt("alpha"), text, ROOM)
        reply = example.ids[example.prompt_length : -1]
        assert tokenizer.decode(reply, skip_special_tokens=True).strip().endswith(text.strip())


def a_conversation_is_what_the_template_renders(tokenizer: Any) -> None:
    asked = [Message("user", "bravo"), Message("assistant", "charlie"), Message("user", "delta")]
    example = conversation(tokenizer, asked, "It is 4.", ROOM)
    turns = [{"role": turn.role, "content": turn.content} for turn in asked]
    turns.append({"role": "assistant", "content": "It is 4."})
    text = tokenizer.apply_chat_template(turns, tokenize=False)
    if tokenizer.convert_ids_to_tokens(tokenizer.encode("It", add_special_tokens=False))[0] != "It":
        # SentencePiece writes a space before any text that it reads alone.
        assert _packed(text).startswith(_packed(tokenizer.decode(example.ids)))
        return
    whole = tokenizer.encode(text, add_special_tokens=False)
    bos = tokenizer.bos_token_id
    if example.ids[0] == bos and whole[0] != bos:
        whole.insert(0, bos)
    assert whole[: len(example.ids)] == example.ids


def _packed(text: str) -> str:
    return "".join(text.split())


def control_tokens_that_people_write_are_text(tokenizer: Any) -> None:
    added = tokenizer.added_tokens_decoder
    marks = {number: token.content for number, token in added.items() if token.special}
    for mark in list(marks.values())[:40]:
        text = f"Write {mark} here"
        for ids, harmless in (
            (prompt_ids(tokenizer, user_prompt(text), ROOM), _prompt(tokenizer, "Write it here")),
            (
                conversation(tokenizer, user_prompt("alpha"), text, ROOM).ids,
                conversation(tokenizer, user_prompt("alpha"), "Write it here", ROOM).ids,
            ),
        ):
            found, expected = (_controls(one, marks) for one in (ids, harmless))
            assert found == expected, mark
        reply = conversation(tokenizer, user_prompt("alpha"), text, ROOM)
        told = tokenizer.decode(reply.ids[reply.prompt_length : -1], skip_special_tokens=True)
        assert told.strip().endswith(text)


def _prompt(tokenizer: Any, text: str) -> list[int]:
    return prompt_ids(tokenizer, user_prompt(text), ROOM)


def _controls(ids: list[int], marks: dict[int, str]) -> list[int]:
    return [number for number in ids if number in marks]


EVERY_PROPERTY = [
    begins_with_one_bos_or_none,
    a_reply_ends_in_a_token_that_stops,
    every_turn_is_read_the_systems_too,
    a_reply_is_decoded_to_what_was_written,
    a_conversation_is_what_the_template_renders,
    control_tokens_that_people_write_are_text,
]
