"""What of a text counts when texts are compared: its words in every script, numbers and signs.

Marks belong to their letters (the vowel signs of Hindi, Thai and others are no letters of their
own); scripts without spaces count by characters. In texts of few words order counts, and so do
signs: C, C++ and C# differ, and 3 > 5 is not 5 > 3.
"""

from __future__ import annotations

import re
from typing import NamedTuple

import regex

# Texts of so many words at most are nearly the same only where all of their words are; of longer
# ones numbers and signs must be the same up to so many. A character of a script without spaces
# counts as half a word.
FEW_WORDS = 32
MOST_WORDS_WITH_SIGNS = 100

_UNSPACED = r"[\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}\p{Tibetan}]\p{M}*"
WORD = regex.compile(rf"{_UNSPACED}|[\p{{L}}\p{{N}}\p{{M}}]+")
_ALONE = regex.compile(_UNSPACED)
# The same for texts of ASCII, which are most, in a fraction of the time: what is in no word as a
# space.
_ASCII_WORDS = "".join(chr(n) if re.match("[a-z0-9]", chr(n)) else " " for n in range(128))
# An ASCII text of these alone holds no number, and a sign only where one of the others is found.
_ASCII_PLAIN = {ord(character): None for character in "abcdefghijklmnopqrstuvwxyz .,;:!?'\"()"}
_ASCII_SIGN = re.compile(r"(?:^| )(?:\.[a-z]{2}|![a-z])")
_ASCII_QUOTED = re.compile(r"['\"][.,;:!?]{1,3}['\"]")

_VARIABLE = r"(?<![\p{L}\p{N}\p{M}])\p{L}"
_SIGN = (
    # Operators, currencies, emoji, and what stands for them in ASCII.
    r"!?[\p{Sm}\p{Sc}\p{So}%&@\\^]+"
    # Of a name: C#, C--, .NET.
    r"|(?<=\p{L})\#|(?<=\p{L})--(?!\p{L})|(?<!\S)\.(?=\p{L}{2})"
    # Between numbers or variables; elsewhere they are punctuation, or Markdown's.
    r"|(?<=[\p{N})\]]\s?)[-\u2212\u2013*/]{1,2}(?=\s?[\p{N}\p{L}(])"
    rf"|(?<={_VARIABLE}\s?)[-\u2212\u2013*/]{{1,2}}(?=\s?(?:\p{{N}}|\p{{L}}(?![\p{{L}}\p{{N}}\p{{M}}])|\())"
    r"|(?<![\p{L}\p{N}\p{M}])[-\u2212](?=\p{N})"
    # Before or behind a variable; of stars those that no other one closes, as Markdown does.
    r"|(?<!\S)-(?=\p{L}(?![\p{L}\p{N}\p{M}]))|(?<!\S)!(?=\p{L})|(?<!\S)\*{1,2}(?=\p{L}[^*]*$)"
    rf"|(?<={_VARIABLE})[*?](?=\S)|(?<={_VARIABLE})\*"
    # In quotes a sign is what is talked about.
    r"|(?<=(?:^|\s)['\"`])[^\s\p{L}\p{N}'\"`]{1,3}(?=['\"`])"
    # A factorial within a term, an index, a call.
    r"|(?<=\p{N})!(?=\s*[\p{Sm}?/*)-])|(?<=[\p{L}\p{N}])[\[({](?=\p{N})"
)
# No number or sign begins with a letter or with white space, which are most of a text.
_TOKEN = regex.compile(
    rf"\s+|(?P<word>(?=\p{{L}})(?:{WORD.pattern}))|(?P<number>\p{{N}}+(?:[.,]\p{{N}}+)+)|(?P<sign>{_SIGN})|(?P<bracket>[()\[\]{{}}])"
    rf"|(?P<word>{WORD.pattern})"
)
_OPERATOR = regex.compile(r"[\p{Sm}*/^!\u2212\u2013-]")
_EMOJI_AT_THE_END = regex.compile(r"[\p{So}\u200d\ufe0f\u20e3\s.!?]+$")

# What is said around a question and asks nothing. Thanks are a sentence of their own, a plea at
# the end stands behind a comma: the question may be how to say them.
_GREETINGS = (
    "hi|hello|hey|hi there|hello there|good morning|hallo|guten tag|bonjour|salut|hola|buenos días|"
    "ciao|buongiorno|olá|oi|привет|здравствуйте|नमस्ते|مرحبا|merhaba|안녕하세요"
)
_PLEAS = (
    "please|bitte|s'il vous plaît|s'il te plaît|por favor|per favore|пожалуйста|कृपया|من فضلك|"
    "lütfen|प्लीज़"
)
_THANKS = (
    "thanks|thank you|thanks a lot|thank you very much|thanks in advance|many thanks|danke|"
    "vielen dank|danke schön|danke im voraus|merci|merci beaucoup|merci d'avance|gracias|"
    "muchas gracias|gracias de antemano|grazie|grazie mille|obrigado|obrigada|muito obrigado|"
    "спасибо|большое спасибо|заранее спасибо|धन्यवाद|شكرا|teşekkürler|teşekkür ederim|감사합니다"
)
_BEFORE = regex.compile(rf"(?:(?:{_GREETINGS})\s?[,!.]+\s|(?:{_PLEAS}),?\s)+")
_BEHIND = regex.compile(rf"(?:(?<=[.?!।؟])\s(?:{_THANKS})[.!।\s]*|,\s(?:{_PLEAS}))+[.?!।؟\s]*$")
# The words that such a phrase begins or ends with: most texts are no such case.
_FIRST = {WORD.findall(phrase)[0] for phrase in f"{_GREETINGS}|{_PLEAS}".split("|")}
_LAST = {WORD.findall(phrase)[-1] for phrase in f"{_THANKS}|{_PLEAS}".split("|")}
_LEAST_WORDS_LEFT = 2
# From so many words on the beginning of a text may stand at its end and change nothing.
_LEAST_WORDS_TURNED = 4


class Compared(NamedTuple):
    """A text as it is compared with others.

    `same` is what texts that are surely nearly the same have alike; None: their words, in any
    order, and `hard`. `long` texts may also be similar: `hard` holds the numbers and signs that
    must be alike then.
    """

    same: str | None
    hard: str
    long: bool


def spaced(even: str) -> str:
    """The words of an evened text (see `near_duplicates.evened`), one or more spaces between."""
    if even.isascii():
        return even.translate(_ASCII_WORDS).strip()
    return " ".join(WORD.findall(even))


def compared(even: str, words_of_it: str, count: int) -> Compared:
    """What counts of an evened text, by its `count` words as `spaced` gives them."""
    plain, same = even.isascii(), None
    if not plain and count > FEW_WORDS:
        words = words_of_it.split()
        alone = sum(map(bool, map(_ALONE.match, words)))
        count -= alone // 2
        # The same characters in any order are no words.
        same = words_of_it if 2 * alone > len(words) else None
    if count > MOST_WORDS_WITH_SIGNS:
        return Compared(same, "", True)
    odd = not plain or _is_odd(even)
    if count > FEW_WORDS:
        return Compared(same, _hard(even) if odd else "", True)
    return Compared(_same(even, words_of_it.split(), odd), "", False)


def _is_odd(even: str) -> bool:
    """Whether a text of ASCII may hold a number or a sign."""
    if even.translate(_ASCII_PLAIN):
        return True
    # Whether there can be one is quicker to see than where.
    if (" ." in even or " !" in even or even[:1] in (".", "!")) and _ASCII_SIGN.search(even):
        return True
    return ("'" in even or '"' in even) and _ASCII_QUOTED.search(even) is not None


def _tokens(even: str) -> list[tuple[str, str]]:
    """Words, numbers and signs of a text in their order, each with its kind; brackets where there
    are operators, or no letters."""
    matches = _TOKEN.finditer(even)
    found = [(match.lastgroup, match[0]) for match in matches if match.lastgroup]
    formal = any(kind == "sign" and _OPERATOR.search(text) for kind, text in found)
    formal = formal or not any(map(str.isalpha, even))
    return [(kind, text) for kind, text in found if formal or kind != "bracket"]


def _hard(even: str) -> str:
    """Numbers, and words with digits, and signs, in their order."""
    return " ".join(
        text
        for kind, text in _tokens(_EMOJI_AT_THE_END.sub("", even))
        if kind in ("number", "sign") or any(map(str.isdigit, text))
    )


def _same(even: str, words: list[str], odd: bool) -> str:
    """The words of a text of few, with its numbers and signs; politeness around them left out."""
    asked = _asked(even, words)
    if asked is not even:
        words = spaced(asked).split()
    if not words:
        return even
    texts, turns = words, True
    if odd:
        tokens = _tokens(_EMOJI_AT_THE_END.sub("", asked) or asked)
        texts = [text for _, text in tokens]
        turns = not any(kind == "sign" for kind, _ in tokens)
    return " ".join(_turned(texts) if turns else texts)


def _asked(even: str, words: list[str]) -> str:
    """A text without what is polite around it, where enough is left."""
    if len(words) <= _LEAST_WORDS_LEFT or (words[0] not in _FIRST and words[-1] not in _LAST):
        return even
    start = _BEFORE.match(even)
    asked = _BEHIND.sub("", even[start.end() :] if start else even)
    return asked if len(WORD.findall(asked)) >= _LEAST_WORDS_LEFT else even


def _turned(words: list[str]) -> list[str]:
    """The same list for a text whose beginning stands at its end: "in Python, how ...?"."""
    if len(words) < _LEAST_WORDS_TURNED:
        return words
    least = min(words)
    start = words.index(least)
    turned = words[start:] + words[:start]
    if words.count(least) == 1:
        return turned
    starts = [place for place, word in enumerate(words) if word == least]
    return min(words[start:] + words[:start] for start in starts)
