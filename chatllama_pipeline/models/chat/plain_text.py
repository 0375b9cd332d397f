"""Text is text: only a chat template writes control tokens, whatever spellings people write.

A tokenizer reads the spelling of a control token (`<|im_end|>`, `</s>`, `<think>`) as that token,
wherever it stands. Texts that hold none are encoded as ever. Where one does, the marks in it are
guarded before the template sees them, and the whole is read by a twin of the tokenizer that knows
its control tokens by other names: those that the template wrote are renamed for it, the rest is
plain text to it.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from chatllama_pipeline.errors import DataError

# What added tokens look like that aren't flagged as special, and yet steer a model: <think>,
# <tool_call>, <|fim_prefix|>, [multimodal]. Gemma adds HTML's tags and runs of white space as well.
_MARK_LIKE = re.compile(r"<[^<>\s]+>|\[/?[A-Za-z_ ]+\]|\u25c1\S+\u25b7")
_BYTE = re.compile(r"<0x[0-9A-Fa-f]{2}>")
_HTML = re.compile(
    r"</?(?:a|b|big|blockquote|body|br|caption|center|code|dd|del|div|dl|dt|em|font|h[1-6]|head|hr"
    r"|html|i|img|ins|li|ol|p|pre|s|small|span|strong|sub|sup|table|tbody|td|tfoot|th|thead|title"
    r"|tr|u|ul)/?>"
)
# Planes 15 and 16 are for private use: no script, hardly an icon font.
_FLAGS = ("single_word", "lstrip", "rstrip", "normalized", "special")
_PRIVATE = [range(0xF0000, 0xFFFFE), range(0x100000, 0x10FFFE)]


class Encoded(NamedTuple):
    """Ids, and for each the text of a pair that it belongs to: None for what stands around."""

    ids: list[int]
    sequence_ids: list[int | None]


class PlainText:
    """The control tokens of a `tokenizers.Tokenizer`, and how to encode texts that spell them."""

    def __init__(self, core: Any) -> None:
        added = core.get_added_tokens_decoder()
        self._core = core
        self._controls = {
            number: token
            for number, token in sorted(added.items())
            if token.content.strip() and (token.special or _steers(token.content))
        }
        marks = [token.content for token in self._controls.values()]
        self._marks = re.compile(_either(marks)) if marks else None
        # These are looked for in what the normalizer makes of a text, in lower case for example.
        normalized = [t.content for t in self._controls.values() if t.normalized]
        self._normalized: Any = None
        if normalized and (normalizer := core.normalizer) is not None:
            self._normalized = re.compile(_either(map(normalizer.normalize_str, normalized)))

    def spells_marks(self, text: str) -> bool:
        """Whether the tokenizer would read a control token in `text`."""
        if self._marks is None:
            return False
        if self._marks.search(text):
            return True
        return self._normalized is not None and bool(
            self._normalized.search(self._core.normalizer.normalize_str(text))
        )

    def unused(self, texts: Sequence[str]) -> str:
        """A character to guard marks with: one that stands in none of `texts`."""
        return chr(_free(texts, 1))

    def guarded(self, text: str, guard: str, besides: Iterable[tuple[int, int]] = ()) -> str:
        """`text` with `guard` within every mark but those at `besides`, as (start, end)."""
        kept = set(besides)

        def guard_one(mark: re.Match[str]) -> str:
            return mark[0] if mark.span() in kept else f"{mark[0][0]}{guard}{mark[0][1:]}"

        return self._marks.sub(guard_one, text) if self._marks else text

    def encode(self, text: str, guard: str = "") -> list[int]:
        """The ids of `text`: of its marks, those without `guard` within are control tokens."""
        # No character of the text may be mistaken for a name.
        twin = _twin(self, _free([text, guard], len(self._controls)))
        if self._marks and guard:
            text = self._marks.sub(lambda mark: twin.names[mark[0]], text).replace(guard, "")
        return twin.encode(text, None, False).ids

    def encode_alone(self, first: str, second: str | None = None) -> Encoded:
        """A plain text, or a pair of them, with the tokens that the tokenizer puts around them."""
        twin = _twin(self, _free([first, second or ""], len(self._controls)))
        return twin.encode(first, second, True)

    def counts(self, texts: Sequence[str]) -> list[int]:
        """Tokens of each text, nothing put around it."""
        marked = {place for place, text in enumerate(texts) if self.spells_marks(text)}
        ordinary = [text for place, text in enumerate(texts) if place not in marked]
        counted = iter(self._core.encode_batch_fast(ordinary, add_special_tokens=False))
        return [
            len(self.encode(text)) if place in marked else len(next(counted))
            for place, text in enumerate(texts)
        ]

    def controls(self) -> dict[int, Any]:
        """Id -> `tokenizers.AddedToken` of every control token."""
        return self._controls


@functools.lru_cache(maxsize=16)
def plain_text_of(tokenizer: Any) -> PlainText | None:
    """`PlainText` of a transformers tokenizer, which gets no more tokens from here on.

    None where it isn't of the `tokenizers` library.
    """
    core = getattr(tokenizer, "backend_tokenizer", None)
    return None if core is None else PlainText(core)


def unlimited(core: Any) -> Any:
    """`core`, a `tokenizers.Tokenizer`, without truncation and padding that its file brings.

    Whoever saved a tokenizer while it truncated or padded has left that in tokenizer.json.
    """
    core.no_truncation()
    core.no_padding()
    return core


class _Twin:
    """A tokenizer like another, to which control tokens are known by private characters alone."""

    def __init__(self, core: Any, controls: dict[int, Any], first_name: int) -> None:
        self.names = {
            token.content: chr(first_name + place) for place, token in enumerate(controls.values())
        }
        self._core = self._like(core)
        spelled = {token.content: number for number, token in controls.items()}
        if any(self._writes(text, number) for text, number in spelled.items()):
            self._core = self._like(_renamed(core, self.names))
        self._ids = {
            self._core.token_to_id(self.names.get(token.content, token.content)): number
            for number, token in core.get_added_tokens_decoder().items()
        }

    def encode(self, first: str, second: str | None, around: bool) -> Encoded:
        found = self._core.encode(first, second, add_special_tokens=around)
        return Encoded([self._ids.get(n, n) for n in found.ids], found.sequence_ids)

    def _like(self, core: Any) -> Any:
        from tokenizers import AddedToken, Tokenizer

        twin = Tokenizer(core.model)
        for part in ("normalizer", "pre_tokenizer", "post_processor", "decoder"):
            if (value := getattr(core, part)) is not None:
                setattr(twin, part, value)
        # All at once, as each call builds the search for all of them anew.
        twin.add_tokens(
            [
                AddedToken(
                    self.names.get(token.content, token.content),
                    **{flag: getattr(token, flag) for flag in _FLAGS},
                )
                for _, token in sorted(core.get_added_tokens_decoder().items())
            ]
        )
        return twin

    def _writes(self, text: str, number: int) -> bool:
        """Whether the model itself makes a control token of its spelling, as Unigram's does."""
        ids = self._core.encode(text, add_special_tokens=False).ids
        return number in ids and number != _unknown(self._core)


@functools.lru_cache(maxsize=8)
def _twin(plain: PlainText, first_name: int) -> _Twin:
    return _Twin(plain._core, plain.controls(), first_name)


def _unknown(core: Any) -> int | None:
    """The id of the token for what a vocabulary lacks, where there is one."""
    model = core.model
    named = getattr(model, "unk_token", None)
    number: int | None = core.token_to_id(named) if named else getattr(model, "unk_id", None)
    return number


def _renamed(core: Any, names: dict[str, str]) -> Any:
    """`core` with the marks renamed in its vocabulary: no text is segmented into them."""
    from tokenizers import Tokenizer

    raw = json.loads(core.to_str())
    model = raw["model"]
    names = {mark: name for mark, name in names.items() if mark != model.get("unk_token")}
    if isinstance(model["vocab"], dict):
        model["vocab"] = {names.get(piece, piece): n for piece, n in model["vocab"].items()}
    else:
        model["vocab"] = [[names.get(piece, piece), score] for piece, score in model["vocab"]]
    if "merges" in model:
        pairs = (m.split(" ") if isinstance(m, str) else m for m in model["merges"])
        model["merges"] = [
            pair for pair in pairs if not names.keys() & {pair[0], pair[1], "".join(pair)}
        ]
    raw["added_tokens"] = []
    renamed = Tokenizer.from_str(json.dumps(raw))
    renamed.add_tokens([token for _, token in sorted(core.get_added_tokens_decoder().items())])
    return renamed


def _steers(token: str) -> bool:
    return bool(_MARK_LIKE.fullmatch(token)) and not (_HTML.fullmatch(token) or _BYTE.match(token))


def _free(texts: Sequence[str], count: int) -> int:
    """The first of `count` private characters in a row, none of which is in `texts`."""
    used = {ord(letter) for letter in set("".join(texts)) if ord(letter) >= _PRIVATE[0].start}
    for plane in _PRIVATE:
        for first in range(plane.start, plane.stop - count, count):
            if not used or used.isdisjoint(range(first, first + count)):
                return first
    raise DataError(
        "a text is full of characters for private use (planes 15 and 16) and spells a control "
        "token: the two could not be told apart; remove either from it"
    )


def _either(words: Iterable[str]) -> str:
    """A pattern for the longest of `words`; a tree of their letters, as they may be thousands."""
    tree: dict[str, Any] = {}
    for word in words:
        branch = tree
        for letter in word:
            branch = branch.setdefault(letter, {})
        branch[""] = {}
    return _pattern(tree)


def _pattern(tree: dict[str, Any]) -> str:
    # A run of letters without a fork is one literal: depth stays that of the forks.
    options = []
    for letter, branch in tree.items():
        if letter:
            literal = letter
            while len(branch) == 1 and "" not in branch:
                [(following, branch)] = branch.items()
                literal += following
            options.append(re.escape(literal) + ("" if branch == {"": {}} else _pattern(branch)))
    inner = options[0] if len(options) == 1 else f"(?:{'|'.join(options)})"
    return f"(?:{inner})?" if "" in tree else inner
