"""Personal data in texts: what is found, what stays, what is shown of it."""

from __future__ import annotations

import random
import string
from collections.abc import Callable

import pyarrow as pa
import pytest

from chatllama_pipeline.data.patterns import find, mask, redact, redact_table, suspects
from chatllama_pipeline.schemas import PREFERENCE_SCHEMA
from chatllama_pipeline.settings import PERSONAL_KINDS, AssistantSettings
from tests.growth import grows_in_proportion

# Put together here, so that nobody's scanner takes them for keys that someone lost.
OPENAI = "sk-" + "proj-Ab3dE5fG7hI9jK1lM3nO5pQ7"
AWS = "AKIA" + "IOSFODNN7EXAMPLE"
GITHUB = "gh" + "p_" + "a1B2" * 9
JWT = "eyJ" + "hbGciOiJIUzI1NiJ9." + "eyJzdWIiOiIxMjM0NTY3ODkwIn0." + "dozjgNryP4J3jVmNHl0w5N"
PEM = "-----BEGIN RSA PRIVATE KEY-----\nMIIEowIBAAKCAQEA\nx7k=\n-----END RSA PRIVATE KEY-----"


@pytest.mark.parametrize(
    ("text", "redacted"),
    [
        ("write to jo.doe+news@mail.example.co.uk, please", "write to <email>, please"),
        ("<a.b@c.de>;b@c.museum.", "<<email>>;<email>."),
        ("ruf mich an: +49 30 1234567!", "ruf mich an: <phone>!"),
        ("+1 (415) 555-2671", "<phone>"),
        ("+14155552671.", "<phone>."),
        ("0049 (0)30 1234567", "<phone>"),
        ("call (415) 555-2671 or 415-555-2671", "call <phone> or <phone>"),
        ("1-800-555-2671, 415.555.2671", "<phone>, <phone>"),
        ("020 7946 0958 und 030/123 4567", "<phone> und <phone>"),
        ("06 12 34 56 78", "<phone>"),
        ("+4 9 3 0 1 2 3 4 5", "<phone>"),
        (f"key={OPENAI}", "key=<key>"),
        (f"{AWS} and {GITHUB}", "<key> and <key>"),
        (f"Bearer {JWT}", "Bearer <key>"),
        (f"mine:\n{PEM}\nkeep it", "mine:\n<key>\nkeep it"),
        (PEM[:50], "<key>"),
        ("pay with 4111 1111 1111 1111", "pay with <card>"),
        ("4111-1111-1111-1111, 378282246310005", "<card>, <card>"),
        ("an DE89 3704 0044 0532 0130 00 bitte", "an <iban> bitte"),
        ("GB82WEST12345698765432", "<iban>"),
        ("שלום dana@example.co.il 🐈", "שלום <email> 🐈"),
    ],
)
def test_personal_data_is_replaced_by_what_it_was(text: str, redacted: str) -> None:
    assert redact(text, PERSONAL_KINDS) == redacted
    assert redact(redacted, PERSONAL_KINDS) == redacted
    assert suspects(pa.array([text])).to_pylist() == [True]


@pytest.mark.parametrize(
    "text",
    [
        "it costs $1,299.99 or 1.299,99 EUR, 12 500 000 in all",
        "on 2024-01-31, 31.01.2024, 01/31/2024 at 10:30:15",
        "between 1914-1918 and 1939 - 1945, in 2023 2024 2025",
        "2024-01-31T10:30:15.123456+02:00",
        "ISBN 978-3-16-148410-0, 9780306406157, 0-306-40615-2, 0306406152",
        "pi is 3.14159265358979, e is 2.718281828459045",
        "192.168.100.200 and 10.0.0.1, version 2.10.300.4000",
        "serial 1234567890123456, order 20240131-000123",
        "4111 1111 1111 1112",
        "GB82 WEST 1234 5698 7654 33",
        "the ratio 200 300 4000 and 100-200-3000",
        "f(x) = x + 12345678, 5 +10000000 -3",
        "user @ home, @handle, a@b, x@y.z and foo@bar@",
        "ask-me-anything-about-2024-and-the-weather, task-12345678901234567890",
        "sk-learn-like-pipelines-for-everyone",
        "hf_hub, ghp_short, AKIA, AKIAshort, eyJ.eyJ",
        "BEGIN PUBLIC KEY",
        "zip 94107-1234, page 00123, room 0815",
        "UUID 123e4567-e89b-12d3-a456-426614174000",
        "12345678 @ 3 am",
    ],
)
def test_prices_dates_isbns_and_other_numbers_stay(text: str) -> None:
    assert redact(text, PERSONAL_KINDS) == text
    assert find(text) == []


def test_only_the_kinds_asked_for_are_replaced() -> None:
    text = "a@b.org or +49 30 1234567"
    assert redact(text, ["phone"]) == "a@b.org or <phone>"
    assert redact(text, []) == text
    iban = "an DE89 3704 0044 0532 0130 00, a@b.org"
    assert redact(iban, ["phone", "card"]) == iban
    assert redact(iban, ["phone", "email"]) == "an DE89 3704 0044 0532 0130 00, <email>"
    assert find(text) == [("email", "a@b.org"), ("phone", "+49 30 1234567")]


@pytest.mark.parametrize(
    ("kind", "match", "shown"),
    [
        ("email", "jo.doe@mail.example.org", "j***@m***.org"),
        ("phone", "+49 (30) 1234567", "+49***67"),
        ("key", OPENAI, "sk-p***"),
        ("card", "4111 1111 1111 1111", "411***11"),
        ("iban", "DE89 3704 0044 0532 0130 00", "DE8***00"),
    ],
)
def test_what_is_shown_is_too_little_to_use(kind: str, match: str, shown: str) -> None:
    assert mask(kind, match) == shown


def test_a_table_is_redacted_in_its_prompts_and_replies_alone() -> None:
    plain = {"strength": 1.0, "source": "a@b.org", "domain": "+49 30 1234567", "split": "train"}
    turns = [
        {"role": "user", "content": "I am a@b.org"},
        {"role": "assistant", "content": "Hello 🐈"},
        {"role": "user", "content": "+49 30 1234567?"},
    ]
    rows = [
        {"prompt": turns, "chosen": "b@c.org and c@d.org", "rejected": "No", **plain},
        {"prompt": turns[1:2], "chosen": "Yes", "rejected": "No", **plain},
    ]
    # A slice in several chunks: offsets must be those of the rows at hand.
    whole = pa.Table.from_pylist([rows[1], *rows], schema=PREFERENCE_SCHEMA)
    table = pa.concat_tables([whole.slice(1, 1), whole.slice(2)])
    redacted, counts = redact_table(table, PERSONAL_KINDS)
    assert redacted.schema.equals(PREFERENCE_SCHEMA)
    assert counts == {"email": 3, "phone": 1}
    first, second = redacted.to_pylist()
    assert [turn["content"] for turn in first["prompt"]] == ["I am <email>", "Hello 🐈", "<phone>?"]
    assert [turn["role"] for turn in first["prompt"]] == ["user", "assistant", "user"]
    assert (first["chosen"], first["rejected"]) == ("<email> and <email>", "No")
    assert {name: first[name] for name in plain} == plain
    assert second == rows[1]
    untouched, none = redact_table(table, [])
    assert untouched is table
    assert none == {}


def test_what_is_redacted_is_a_list_of_kinds_or_all_or_nothing() -> None:
    def kinds(value: object) -> list[str]:
        settings = AssistantSettings.model_validate({"data": {"redact": value}})
        return list(settings.data.redact)

    assert kinds(True) == list(PERSONAL_KINDS)
    assert kinds(False) == kinds([]) == []
    assert kinds(["phone", "email", "phone"]) == ["email", "phone"]
    with pytest.raises(ValueError, match="Input should be 'email', 'phone', 'key', 'card' or"):
        kinds(["mail"])


@pytest.mark.parametrize(
    "text",
    [
        lambda size: "a" * size,
        lambda size: "a." * size + "@",
        lambda size: "a@" + "b." * size,
        lambda size: "1 " * size,
        lambda size: "+1" * size,
        lambda size: "-----BEGIN PRIVATE KEY-----" * (size // 10),
        lambda size: "sk-" * size,
        lambda size: "eyJ" + "a" * size,
        lambda size: "DE89 " * size,
    ],
)
def test_patterns_take_time_in_proportion_to_a_text(text: Callable[[int], str]) -> None:
    """Those that back up would take minutes for these."""
    assert grows_in_proportion(lambda given: redact(given, PERSONAL_KINDS), text, 50_000)


def test_random_text_holds_nothing() -> None:
    """200 kB of letters, digits and punctuation as prose has them, seed 0: no match at all."""
    chance = random.Random(0)
    words = (
        "".join(chance.choices(string.ascii_lowercase, k=chance.randint(1, 9)))
        if chance.random() < 0.9
        else str(chance.randint(0, 99999))
        for _ in range(35_000)
    )
    assert find(" ".join(words)) == []
