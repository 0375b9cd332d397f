"""People's words on replies: which of them count, whatever they say.

A word is a rating with the visit that it came from. Of one visit the last word on the same replies
counts, of several visits that differ the one that most of them say; and no visit says more than
its share.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from typing import NamedTuple

from chatllama_pipeline.data.feedback.ratings import Edit, Preference, Rating, Thumb, rating_of
from chatllama_pipeline.data.funnel import Funnel
from chatllama_pipeline.data.own.values import text_error, turns_error
from chatllama_pipeline.data.splits import Messages
from chatllama_pipeline.errors import DataError
from chatllama_pipeline.store.feedback import Entry

# So many ratings of one visit are never too many.
FEW = 20


class Word(NamedTuple):
    """`visit` is "" where nobody said whose it is."""

    visit: str
    rating: Rating

    @property
    def prompt(self) -> Messages:
        return [{"role": turn.role, "content": turn.content} for turn in self.rating.prompt]

    @property
    def about(self) -> Hashable:
        """What it is a word on: words on the same replies are about the same."""
        rating, asked = self.rating, json.dumps(self.prompt)
        if isinstance(rating, Preference):
            return rating.kind, asked, frozenset((rating.left.text, rating.right.text))
        if isinstance(rating, Edit):
            return rating.kind, asked, rating.reply.text, rating.edited
        return rating.kind, asked, rating.reply.text

    @property
    def says(self) -> Hashable:
        """What it says; of two replies the better one's text, whichever side it stood on."""
        rating = self.rating
        if isinstance(rating, Thumb):
            return rating.good
        if isinstance(rating, Edit):
            return rating.edited
        sides = {"left": rating.left.text, "right": rating.right.text}
        return sides.get(rating.better, (rating.better,))


def words_of(entries: Sequence[Entry]) -> list[Word]:
    """The entries of a log as words; DataError names one that can't be read."""
    words = []
    for entry in entries:
        try:
            words.append(Word(entry.visit, rating_of(json.loads(entry.content))))
        except DataError as error:
            raise DataError(
                f"feedback {entry.id}: {error}; delete it (chatllama feedback delete) and bring "
                "it again as it should be"
            ) from None
    return words


def texts_of(rating: Rating) -> list[str]:
    """The replies of a rating, what they should have been included."""
    if isinstance(rating, Preference):
        return [rating.left.text, rating.right.text]
    return [rating.reply.text, *([rating.edited] if isinstance(rating, Edit) else [])]


def fit_words(
    words: Sequence[Word], funnel: Funnel, reads: Callable[[str], bool] | None = None
) -> list[Word]:
    """Those that can be learned from: a conversation by turns, replies that hold a text, and a
    last turn that the judge `reads`, where it doesn't read all."""
    kept = []
    for word in words:
        if turns_error(word.prompt) or any(text_error(text) for text in texts_of(word.rating)):
            funnel.drop(word.rating.kind, "unfit")
        elif reads and not reads(word.prompt[-1]["content"]):
            funnel.drop(word.rating.kind, "not_for_the_judge")
        else:
            kept.append(word)
    return kept


def last_words(words: Sequence[Word], funnel: Funnel) -> list[Word]:
    """Of each visit the last word on the same replies. Where nobody said whose words they are, the
    same word counts once."""
    found: dict[Hashable, Word] = {}
    for word in words:
        key = (word.visit, word.about, None if word.visit else word.says)
        if found.pop(key, None):
            funnel.drop(word.rating.kind, "duplicate")
        found[key] = word
    return list(found.values())


def within_share(words: Sequence[Word], share: float, funnel: Funnel) -> list[Word]:
    """The newest of each visit, so many that no visit has more than its share. Words of which
    nobody said whose they are came by the owner's own hand, and stay."""
    counts = Counter(word.visit for word in words)
    nobodys = counts.pop("", 0)
    most = most_of_a_visit(list(counts.values()), share, nobodys)
    too_many = {visit: count - most for visit, count in counts.items() if count > most}
    kept = []
    for word in words:
        if too_many.get(word.visit, 0) > 0:
            too_many[word.visit] -= 1
            funnel.drop(word.rating.kind, "over_share")
        else:
            kept.append(word)
    return kept


def most_of_a_visit(counts: Sequence[int], share: float, besides: int = 0) -> int:
    """The most words that one visit may give, where visits give `counts`, so that it has at most
    `share` of all that stay; `besides` stay whatever happens.

    An even share is nobody's fault, and `FEW` are never too many.
    """
    most = max(counts, default=0)
    share = max(share, 1 / (len(counts) + bool(besides) or 1))
    while most > FEW:
        fair = int(share * (besides + sum(min(count, most) for count in counts)) + 1e-9)
        if fair >= most:
            return most
        most = fair
    return FEW


def agreed(words: Sequence[Word], funnel: Funnel) -> tuple[list[Word], int]:
    """One word on the same replies: the one that most visits say, none where as many say another.
    Returns them, and on how many replies people contradicted each other."""
    groups: dict[Hashable, list[Word]] = {}
    for word in words:
        groups.setdefault(word.about, []).append(word)
    kept, contradictions = [], 0
    for group in groups.values():
        said = Counter(word.says for word in group).most_common(2)
        contradictions += len(said) > 1
        undecided = len(said) > 1 and said[0][1] == said[1][1]
        alike = [word for word in group if word.says == said[0][0] and not undecided]
        kept += alike[-1:]
        kind = group[0].rating.kind
        funnel.drop(kind, "contradicted", len(group) - len(alike))
        funnel.drop(kind, "duplicate", len(alike[:-1]))
    return kept, contradictions
