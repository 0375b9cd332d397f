"""What a model thought before its reply, told apart from the reply; of texts alone.

Families mark their thoughts in ways of their own, and servers hand them on more or less whole: with
the opening mark missing (it stood in the prompt), with the marks of a turn's end, with the role's
name in front.
"""

from __future__ import annotations

import re
from typing import NamedTuple

# Names of marks as <name> ... </name>; several models write them in capitals.
_NAMES = (
    r"think(?:ing)?|thoughts?|reason(?:ing)?|reflection|scratchpad|inner_monologue"
    r"|(?:seed|longcat|ant)[:_]think(?:ing)?"
)
_OPENERS = (
    rf"<(?:{_NAMES})>|\[think\]|◁think▷|<\|begin_of_thought\|>|<\|start_thinking\|>"
    r"|<\|channel>thought\b"
)
_CLOSERS = (
    rf"</(?:{_NAMES})>|\[/think\]|◁/think▷|<\|end_of_thought\|>|<\|end_thinking\|>|<channel\|>"
)
_MARK = re.compile(f"(?P<opener>{_OPENERS})|(?P<closer>{_CLOSERS})", re.IGNORECASE)
_QUOTES = "`'\"\u2018\u2019\u201c\u201d"
# What some models wrap the reply in that follows their thoughts.
_WRAPPED = re.compile(
    r"<(?P<name>answer|response|output|solution)>(?P<tagged>.*?)(?:</(?P=name)>)?\s*"
    r"|<\|(?:begin_of_solution|start_response)\|>(?P<marked>.*?)"
    r"(?:<\|(?:end_of_solution|end_response)\|>)?\s*",
    re.IGNORECASE | re.DOTALL,
)
# gpt-oss: <|channel|>analysis<|message|>...<|end|><|start|>assistant<|channel|>final<|message|>...
_CHANNEL = re.compile(
    r"<\|channel\|>\s*(?P<name>\w+)[^<]*(?:<\|constrain\|>[^<]*)?<\|message\|>"
    r"(?P<said>.*?)(?:<\|(?:end|return|call)\|>|(?=<\|start\|>|<\|channel\|>)|\Z)",
    re.DOTALL,
)
_FIRST_CHANNEL = re.compile(
    r"\A(?:<\|start\|>assistant\s*)?<\|channel\|>|<\|end\|>\s*<\|start\|>assistant\s*<\|channel\|>"
)
# The same where a server left the marks out and kept their words.
_BARE_CHANNELS = re.compile(r"analysis(?P<thought>.*)assistantfinal(?P<reply>.*)", re.DOTALL)
_END = re.compile(
    r"</s>|<eos>|<EOT>|\[EOS\]|\[SEP\]|<end_of_turn>|<turn\|>|<\|return\|>|<\|eot\|>"
    r"|<[|\uff5c](?!end_(?:of_)?think|end_of_thought)[\w▁]*(?:end|eot|eom|eos)[\w▁]*[|\uff5c]>",
    re.IGNORECASE,
)
_MARKED_ROLE = re.compile(
    r"\s*(?:<\|im_start\|>\s*assistant|<\|start_header_id\|>\s*assistant\s*<\|end_header_id\|>"
    r"|<\|header_start\|>\s*assistant\s*<\|header_end\|>|<start_of_turn>\s*model|<\|turn>\s*model"
    r"|<\|start\|>assistant(?!\s*<\|channel\|>)|<[|\uff5c]assistant[|\uff5c]>|\[/INST\]"
    r"|<\|start_of_role\|>\s*assistant\s*<\|end_of_role\|>"
    r"|###\s*(?:assistant|response)\s*:)\s*",
    re.IGNORECASE,
)
_NAMED_ROLE = re.compile(r"\s*(?:\*\*)?(?:assistant|ASSISTANT|Assistant)(?:\*\*)?:(?:\*\*)?\s+")
_ROLE_LINE = re.compile(r"\s*assistant[^\S\n]*\n\s*")
# A scene with several voices, or a list of words: there "assistant" is content.
_OTHER_VOICE = re.compile(
    r"^\W*(?:assistant|user|human|system|customer|client|caller)\W*:", re.IGNORECASE | re.MULTILINE
)
_WORDS = re.compile(r"[a-z]+(?: [a-z]+)?")


class Spoken(NamedTuple):
    """A text's reply and thought; a text without thoughts is its own reply, white space and all.

    Where a thought was begun and never ended, `finished` is False and there is no reply.
    """

    reply: str
    thought: str
    finished: bool


def spoken(text: str) -> Spoken:
    """`split_thought` of a text as a server sent it, which may show a turn's own marks."""
    found = split_thought(without_turn_marks(text))
    # The role may be named once more behind the thought.
    return found._replace(reply=without_turn_marks(found.reply)) if found.thought else found


def split_thought(text: str) -> Spoken:
    """A model's text as reply and thought.

    Thoughts are what stands between a family's marks at the beginning of a text or of one of its
    lines, and all that stands before a mark that ends what the prompt began. Marks in quotes or
    code are spoken of, and so are those in the middle of a line. A reply that follows a thought is
    taken out of what the model wrapped it in (`<answer>`).
    """
    if (channels := _channels(text)) is not None:
        return channels
    parts, open_at, _ = _parts(text)
    if open_at is not None:
        return Spoken("", _joined([part for part, _ in parts] + [text[open_at:]]), finished=False)
    if not any(is_thought for _, is_thought in parts):
        return Spoken(text, "", finished=True)
    reply = "".join(part for part, is_thought in parts if not is_thought).strip()
    if wrapped := _WRAPPED.fullmatch(reply):
        reply = (wrapped["tagged"] or wrapped["marked"] or "").strip()
    thoughts = [part for part, is_thought in parts if is_thought]
    return Spoken(reply, _joined(thoughts), finished=True)


def thought_marks(text: str) -> list[tuple[int, int]]:
    """Where the marks stand, as (start, end), between which `split_thought` finds thoughts."""
    return _parts(text).marks


def may_hold_thoughts(text: str) -> bool:
    """Whether `text` spells any mark of a thought."""
    return _MARK.search(text) is not None


def opened_thought(prompt: str) -> str:
    """The opening mark that `prompt` ends in, and the white space behind it; "" if in none."""
    marks = _marks(prompt)
    if not marks or not marks[-1]["opener"] or prompt[marks[-1].end() :].strip():
        return ""
    return prompt[marks[-1].start() :]


def end_of_thought(opened: str) -> str:
    """What ends, without a word in it, the thought that `opened` begins; see `opened_thought`."""
    mark = opened.rstrip()
    known = {"<|begin_of_thought|>": "<|end_of_thought|>", "<|channel>thought": "<channel|>"}
    known["<|START_THINKING|>"] = "<|END_THINKING|>"
    closer = known.get(mark, f"{mark[0]}/{mark[1:]}")
    return f"\n{closer}\n\n" if opened.endswith("\n") else closer


def without_turn_marks(text: str) -> str:
    """`text` without the marks of a turn's end behind it and the assistant's role before it.

    A role's bare name goes only where it can't be content: "Assistant: " in front of a text that
    has no other voices, and a first line "assistant" that begins no list of words.
    """
    text = text[: _end_of_content(text)]
    if marked := _MARKED_ROLE.match(text):
        return text[marked.end() :]
    named = _NAMED_ROLE.match(text)
    if named and not _OTHER_VOICE.search(text, named.end()):
        return text[named.end() :]
    line = _ROLE_LINE.match(text)
    if line and not _lists_words(text[line.end() :]):
        return text[line.end() :]
    return text


def _end_of_content(text: str) -> int:
    """Where the marks of a turn's end begin that `text` ends in, if it does; else its length."""
    content = end = len(text)
    while True:
        while end and text[end - 1].isspace():
            end -= 1
        start = max(text.rfind(bracket, 0, end) for bracket in "<[")
        if start < 0 or not _END.fullmatch(text, start, end):
            return content
        content = end = start


def _lists_words(text: str) -> bool:
    return all(_WORDS.fullmatch(line.strip()) for line in text.splitlines() if line.strip())


def _joined(parts: list[str]) -> str:
    return "\n".join(stripped for part in parts if (stripped := part.strip()))


def _channels(text: str) -> Spoken | None:
    """gpt-oss's reply, which is its final channel; None where the text has no channels."""
    start = text.strip()
    first = _FIRST_CHANNEL.search(start)
    if first is None:
        bare = _BARE_CHANNELS.fullmatch(start)
        return bare and Spoken(bare["reply"].strip(), bare["thought"].strip(), finished=True)
    parts = list(_CHANNEL.finditer(start, first.start()))
    final = [part["said"] for part in parts if part["name"] == "final"]
    thoughts = [part["said"] for part in parts if part["name"] != "final"]
    return Spoken(
        _joined(final), _joined([start[: first.start()], *thoughts]), finished=bool(final)
    )


class _Parts(NamedTuple):
    """A text's parts with whether each is a thought, where the thought begins, if one does, that
    never ends, and the places of the marks around thoughts."""

    parts: list[tuple[str, bool]]
    open_at: int | None
    marks: list[tuple[int, int]]


def _parts(text: str) -> _Parts:
    parts: list[tuple[str, bool]] = []
    marks: list[tuple[int, int]] = []
    opener: re.Match[str] | None = None
    spoken_of, done = 0, 0
    for mark in _marks(text):
        if mark["opener"]:
            if opener is None and _begins_a_line(text, done, mark.start()):
                parts.append((text[done : mark.start()], False))
                marks.append(mark.span())
                opener = mark
            elif opener is None:
                spoken_of += 1
            continue
        if opener is not None:  # the first closer ends it, whatever was opened inside
            parts.append((text[opener.end() : mark.start()], True))
            opener = None
        elif spoken_of:
            spoken_of -= 1
            continue
        else:  # the prompt began it, or it lay around other thoughts
            parts = [(part, True) for part, _ in parts if part]
            parts.append((text[done : mark.start()], True))
        marks.append(mark.span())
        done = mark.end()
    if opener is None:
        return _Parts([*parts, (text[done:], False)], None, marks)
    if any(part.strip() for part, is_thought in parts if not is_thought):
        # Who has replied already speaks of the mark.
        return _Parts([*parts, (text[opener.start() :], False)], None, marks[:-1])
    return _Parts(parts, opener.end(), marks)


def _begins_a_line(text: str, start: int, place: int) -> bool:
    """Whether only white space stands before `place` in its line, outside of code fenced since
    `start`."""
    line = text[max(start, text.rfind("\n", 0, place) + 1) : place]
    return not line.strip() and text.count("```", start, place) % 2 == 0


def _marks(text: str) -> list[re.Match[str]]:
    """The marks of thoughts in `text` but those in quotes."""
    return [
        mark
        for mark in _MARK.finditer(text)
        if not (
            _is_quote(text[max(mark.start() - 1, 0) : mark.start()])
            and _is_quote(text[mark.end() : mark.end() + 1])
        )
    ]


def _is_quote(character: str) -> bool:
    return bool(character) and character in _QUOTES
