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
from collections.abc import Sequence
from typing import Any

from chatllama_pipeline.models.chat.control_tokens import ControlTokens, Encoded, free_character
from chatllama_pipeline.models.chat.own_text import OwnText, is_own
from chatllama_pipeline.models.chat.python_text import PythonText, is_python

# How much of its segmenting a model draws at random: a BPE's, and two of a Unigram's.
_DRAWN = ("dropout", "alpha", "nbest_size")
_FLAGS = ("single_word", "lstrip", "rstrip", "normalized", "special")


class PlainText(ControlTokens):
    """The control tokens of a `tokenizers.Tokenizer`, and how to encode texts that spell them."""

    def __init__(self, core: Any) -> None:
        super().__init__(core.get_added_tokens_decoder(), core.normalizer)
        self._core = core

    def encode(self, text: str, guard: str = "") -> list[int]:
        """The ids of `text`: of its marks, those without `guard` within are control tokens."""
        # No character of the text may be mistaken for a name.
        twin = _twin(self, free_character([text, guard], len(self._controls)))
        if self._marks and guard:
            text = self._marks.sub(lambda mark: twin.names[mark[0]], text).replace(guard, "")
        return twin.encode(text, None, False).ids

    def encode_alone(self, first: str, second: str | None = None) -> Encoded:
        """A plain text, or a pair of them, with the tokens that the tokenizer puts around them."""
        twin = _twin(self, free_character([first, second or ""], len(self._controls)))
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


@functools.lru_cache(maxsize=16)
def plain_text_of(tokenizer: Any) -> PlainText | PythonText:
    """How texts are read by a transformers tokenizer, which gets no more tokens from here on."""
    if is_own(tokenizer):
        return OwnText(tokenizer)
    if (core := getattr(tokenizer, "backend_tokenizer", None)) is not None:
        return PlainText(core)
    return PythonText(tokenizer) if is_python(tokenizer) else OwnText(tokenizer)


def unaltered(core: Any) -> Any:
    """`core`, a `tokenizers.Tokenizer`, by which a text has its own ids, whole, always the same.

    Whoever saved a tokenizer while it truncated, padded, or drew how to segment a text (as some do
    while a model is pretrained) has left that in tokenizer.json.
    """
    core.no_truncation()
    core.no_padding()
    for drawn in _DRAWN:
        if getattr(core.model, drawn, None) is not None:
            setattr(core.model, drawn, None)
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
        from tokenizers import Tokenizer

        twin = Tokenizer(core.model)
        for part in ("normalizer", "pre_tokenizer", "post_processor", "decoder"):
            if (value := getattr(core, part)) is not None:
                setattr(twin, part, value)
        # All at once, as each call builds the search for all of them anew.
        twin.add_tokens(
            [
                self._named(token, core.normalizer)
                for _, token in sorted(core.get_added_tokens_decoder().items())
            ]
        )
        return twin

    def _named(self, token: Any, normalizer: Any) -> Any:
        """An added token under the name that the twin knows it by."""
        from tokenizers import AddedToken

        name = self.names.get(token.content, token.content)
        flags = {flag: getattr(token, flag) for flag in _FLAGS}
        if normalizer is not None and name not in normalizer.normalize_str(name):
            # BERT's takes private characters out: the name is looked for before that.
            flags["normalized"] = False
        return AddedToken(name, **flags)

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
