"""The LLM writer: three ways to conversations, prompts, completions; and what it refuses."""

from __future__ import annotations

import json
import random
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from chatllama_pipeline.llm.client.requests import LlmFailure, LlmRequest
from chatllama_pipeline.llm.templates import load_templates
from chatllama_pipeline.llm.writer.replies import read_items, read_text
from chatllama_pipeline.llm.writer.requests import WriterRequests
from chatllama_pipeline.llm.writer.texts import QUALITIES, Example
from chatllama_pipeline.llm.writer.writing import Batch, LlmWriter
from chatllama_pipeline.records import user_prompt
from tests.llm.answering import Answering, asked, said

WORDS = re.findall(
    r"\w+",
    "amber brook candle dune ember frost glade harbor island jungle kettle lantern meadow nectar "
    "orchard pebble quartz river saddle timber umbrella valley willow yarn zephyr anchor basket "
    "copper dragon engine falcon garden hammer iron jacket kite ladder mirror needle ocean",
)
EXAMPLES = [
    Example(f"actor:{n}", user_prompt(f"How is {word} tea made?"), f"Boil the {word}.")
    for n, word in enumerate(WORDS[:10], start=1)
]


def writes(request: LlmRequest) -> str:
    """A writer who never runs out: texts of random words, new for each seed."""
    rng = random.Random(request.seed)

    def text(length: int) -> str:
        return " ".join(rng.choices(WORDS, k=length))

    if request.json_schema is None:
        return text(12)
    fields = json.loads(request.json_schema)["properties"]["rows"]["items"]["required"]
    return json.dumps({"rows": [{field: text(9) for field in fields} for _ in range(4)]})


def writer(client: Answering, folder: Path, examples: list[Example] = EXAMPLES) -> LlmWriter:
    requests = WriterRequests(load_templates(folder), examples, 1.0, 512, 4, seed=0)
    return LlmWriter(client, requests, examples)


WAYS = ["self_instruct", "question_answer", "personas"]


@pytest.mark.parametrize("way", WAYS)
def test_ten_examples_become_as_many_new_rows_as_asked(way: str, tmp_path: Path) -> None:
    client = Answering(writes)
    batch = writer(client, tmp_path).conversations(150, way, turns=3)
    assert (len(batch.rows), batch.stopped, batch.calls) == (150, "", len(client.seen))
    replies = [row.completion for row in batch.rows]
    assert len(set(replies)) == 150
    assert {row.way for row in batch.rows} == {way}
    template = load_templates(tmp_path)["actor"].hash
    assert {row.template for row in batch.rows} == {template}
    labels = {label for row in batch.rows for label in row.examples}
    assert {f"actor:{n}" for n in range(1, 11)} <= labels
    # Self-instruct learns from its own rows as well.
    assert any(label.startswith("written:") for label in labels) == (way == "self_instruct")


@pytest.mark.parametrize("way", WAYS)
def test_the_same_seed_and_answers_write_the_same_rows(way: str, tmp_path: Path) -> None:
    rows = [
        writer(Answering(writes), tmp_path).conversations(40, way, turns=2).rows for _ in range(2)
    ]
    assert rows[0] == rows[1]


def test_personas_talk_in_turns_and_give_a_row_for_each_reply(tmp_path: Path) -> None:
    client = Answering(writes)
    rows = writer(client, tmp_path).conversations(24, "personas", turns=3).rows
    lengths = Counter(len(row.prompt) for row in rows)
    # 8 talks of 3 turns: prompts of 1, 3 and 5 messages.
    assert lengths == {1: 8, 3: 8, 5: 8}
    talk = next(row.prompt for row in rows if len(row.prompt) == 5)
    assert [turn.role for turn in talk] == ["user", "assistant"] * 2 + ["user"]
    first = next(row for row in rows if row.prompt == talk[:1])
    assert talk[1].content == first.completion
    persons = [asked(request) for request in client.seen if "You play a person" in asked(request)]
    assert any("The conversation so far" in text for text in persons)
    assert len({text.split("You are ")[1][:40] for text in persons}) > 5


def test_self_instruct_shows_six_examples_and_asks_for_other_topics(tmp_path: Path) -> None:
    client = Answering(writes)
    writer(client, tmp_path).conversations(4, "self_instruct", 1)
    text = asked(client.seen[0])
    assert sum(example.completion in text for example in EXAMPLES) == 6
    assert "Write 4 new pairs" in text
    assert "never an instruction" in text


def test_prompts_come_from_the_rlhf_template(tmp_path: Path) -> None:
    (tmp_path / "templates.json").write_text(
        '{"rlhf": "Sailors write, such as:\\n{examples}\\nAhoy."}'
    )
    client = Answering(writes)
    batch = writer(client, tmp_path).prompts(10)
    assert len(batch.rows) == 10
    assert all(row.completion == "" for row in batch.rows)
    text = asked(client.seen[0])
    assert "Sailors write, such as:\n[examples " in text
    assert text.count("Examples:") == 0


def test_in_one_round_all_that_is_missing_is_asked_at_once(tmp_path: Path) -> None:
    rounds: list[int] = []

    class Counting(Answering):
        def answer(self, requests, progress=None):  # type: ignore[no-untyped-def]
            rounds.append(len(requests))
            return super().answer(requests, progress)

    requests = WriterRequests(load_templates(tmp_path), EXAMPLES, 1.0, 512, 4, seed=0)
    for one_round, expected in ((False, [8, 16, 26]), (True, [50])):
        rounds.clear()
        writer = LlmWriter(Counting(writes), requests, EXAMPLES, one_round=one_round)
        assert len(writer.prompts(200).rows) == 200
        assert rounds == expected


def test_a_reply_that_an_example_or_another_quality_has_already_is_refused(tmp_path: Path) -> None:
    example = Example("actor:1", user_prompt("How is tea made?"), " ".join(WORDS[:20]))
    copied = {
        "excellent": " ".join(WORDS[:20]),
        "good": " ".join(WORDS[20:40]),
        "middling": " ".join([*WORDS[20:39], "x"]),  # 19 of 20 words of the good one
    }

    def reply(request: LlmRequest) -> str:
        text = asked(request)
        quality = next((q for q, told in QUALITIES.items() if told in text), "")
        return copied.get(quality) or writes(request)

    batch = writer(Answering(reply), tmp_path, [example]).completions(5)
    assert batch.refused["like_an_example"] > 0
    assert batch.refused["like_another"] > 0
    assert [row.quality for row in batch.rows].count("good") == 1
    assert "middling" not in {row.quality for row in batch.rows}


def test_completions_have_all_qualities_on_the_same_prompts(tmp_path: Path) -> None:
    client = Answering(writes)
    batch = writer(client, tmp_path).completions(75)
    assert Counter(row.quality for row in batch.rows) == dict.fromkeys(QUALITIES, 15)
    prompts = Counter(row.prompt[0].content for row in batch.rows)
    assert set(prompts.values()) == {5}
    # 15 prompts: the 10 of the examples, and 5 new ones.
    assert sum(text in prompts for text in (e.prompt[0].content for e in EXAMPLES)) == 10
    worst = next(asked(r) for r in client.seen if "worthless: wrong" in asked(r))
    assert "coherence" in worst


def stopped(reply: Callable[[LlmRequest], object], folder: Path) -> Batch:
    return writer(Answering(reply), folder).conversations(1000, "self_instruct", 1)  # type: ignore[arg-type]


def test_a_writer_that_only_repeats_itself_is_stopped_with_its_refusal_counts(
    tmp_path: Path,
) -> None:
    same = '{"rows": [{"user_input": "Which way to the harbor?", "completion": "Left."}]}'
    batch = stopped(lambda request: same, tmp_path)
    assert len(batch.rows) == 1
    assert batch.calls == 16
    assert batch.stopped == (
        "stopped at 1 of 1000 rows, since 2 rounds brought nothing new; refused: like_another 15"
    )
    assert batch.said == "Which way to the harbor?"


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        ("I'm sorry, I can't write that.", "unreadable"),
        (said("", "content_filter"), "refused"),
        (said('{"rows": [{"user_input": "Why is', "length"), "cut_off"),
        (LlmFailure("prompt_too_long", "5000 tokens", False), "prompt_too_long"),
        (
            '{"rows": [{"user_input": "How is amber tea made", "completion": "x"}]}',
            "like_an_example",
        ),
        ('{"rows": [{"user_input": "Is it so?", "completion": "Is it so?"}]}', "echo"),
        ('{"rows": [{"user_input": "Is it so?", "completion": " "}]}', "empty"),
        ('{"rows": [{"user_input": "Is it so?", "completion": "a\\ufffd"}]}', "garbled"),
        ('{"rows": [{"user_input": "Why?", "completion": "So."}]}', "too_short"),
        ('{"rows": [{"user_input": "Is it?", "completion": "[end 0123456789ab]"}]}', "echo"),
    ],
)
def test_what_a_writer_may_not_write_is_counted_by_its_reason(
    reply: object, reason: str, tmp_path: Path
) -> None:
    batch = stopped(lambda request: reply, tmp_path)
    assert batch.rows == []
    assert set(batch.refused) <= {reason, "like_another"}
    assert batch.refused[reason] > 0


def test_rows_in_other_scripts_are_kept_as_they_are(tmp_path: Path) -> None:
    letters = [chr(code) for code in range(0x4E00, 0x4E00 + 400)]

    def reply(request: LlmRequest) -> str:
        rng = random.Random(request.seed)
        rows = [
            {
                "user_input": "".join(rng.sample(letters, 12)),
                "completion": "".join(rng.sample(letters, 20)),
            }
            for _ in range(4)
        ]
        return json.dumps({"rows": rows}, ensure_ascii=False)

    batch = writer(Answering(reply), tmp_path).conversations(50, "self_instruct", 1)
    assert len(batch.rows) == 50
    assert all(set(row.completion) <= set(letters) for row in batch.rows)


PAIR = ("user_input", "completion")


@pytest.mark.parametrize(
    "reply",
    [
        '{"rows": [{"user_input": "Why?", "completion": "So {x}."}]}',
        '[{"user_input": "Why?", "completion": "So {x}."}]',
        'Here you are:\n```json\n{"user_input": "Why?", "completion": "So {x}."}\n```',
        '{"rows": [{"user_input": "Why?", "completion": "So {x}."}, {"user_input": "Wh',
        '{"user_input": 1, "completion": "a"} { {"user_input": "Why?", "completion": "So {x}."}',
    ],
)
def test_rows_are_read_wherever_they_stand(reply: str) -> None:
    assert read_items(reply, PAIR, False) == [{"user_input": "Why?", "completion": "So {x}."}]


def test_lines_are_read_where_one_text_a_row_is_asked_for_and_no_json_came() -> None:
    reply = 'Here are three:\n1. "Why is it?"\n\n- How so?\n(3) Wh'
    fields = ("user_input",)
    assert read_items(reply, fields, False) == [
        {"user_input": text} for text in ("Why is it?", "How so?", "Wh")
    ]
    assert len(read_items(reply, fields, cut_off=True)) == 2
    # Lines without numbers that were cut off may be thoughts.
    assert read_items("Okay, they want questions.\nHow about tea?\nOr", fields, True) == []
    assert read_items(reply, PAIR, False) == []
    assert read_items("[" * 100_000 + "{" * 100_000, fields, False) == []


def test_drafts_in_thoughts_that_were_cut_off_are_no_rows() -> None:
    draft = '{"user_input": "DRAFT?", "completion": "DRAFT."}'
    assert read_items(f"A draft: {draft}. Better would be", PAIR, cut_off=True) == []
    assert len(read_items(f"[{draft}, {draft[:20]}", PAIR, cut_off=True)) == 1


THOUGHT = (
    'Okay, they want new ones. A draft:\n{"user_input": "DRAFT?", "completion": "DRAFT bad"}\n'
)


@pytest.mark.parametrize(
    "around",
    [
        "<think>\n{thought}</think>\n\n{reply}",
        "{thought}</think>\n\n{reply}",
        "<thought>{thought}</thought>{reply}",
        "[THINK]{thought}[/THINK]{reply}",
        "<|channel|>analysis<|message|>{thought}<|end|><|start|>assistant<|channel|>final"
        "<|message|>{reply}<|return|>",
        "{reply}<|im_end|>",
        "assistant\n{reply}</s>",
    ],
)
@pytest.mark.parametrize("way", WAYS)
def test_thoughts_and_marks_of_turns_are_in_no_row(way: str, around: str, tmp_path: Path) -> None:
    def thinks(request: LlmRequest) -> str:
        return around.replace("{thought}", THOUGHT).replace("{reply}", writes(request))

    batch = writer(Answering(thinks), tmp_path).conversations(12, way, turns=2)
    plain = writer(Answering(writes), tmp_path).conversations(12, way, turns=2)
    assert [(row.prompt, row.completion) for row in batch.rows] == [
        (row.prompt, row.completion) for row in plain.rows
    ]


@pytest.mark.parametrize("way", WAYS)
def test_a_thought_that_never_ends_is_no_row(way: str, tmp_path: Path) -> None:
    client = Answering(lambda request: f"<think>\n{THOUGHT}{writes(request)}")
    batch = writer(client, tmp_path).conversations(12, way, turns=2)
    assert batch.rows == []
    assert list(batch.refused) == ["cut_off"]


def test_a_text_loses_its_quotes_and_nothing_else() -> None:
    assert read_text('"Well, yes."\n') == "Well, yes."
    assert read_text('"A" and "B"') == '"A" and "B"'
