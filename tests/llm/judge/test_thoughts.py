"""A model's thought is told apart from its reply, however the family marks it."""

from collections.abc import Callable

import pytest

from chatllama_pipeline.models.chat.thoughts import split_thought, spoken, without_turn_marks
from tests.growth import grows_in_proportion


@pytest.mark.parametrize(
    ("text", "thought", "reply"),
    [
        ("<think>\nHm.\n</think>\n\nFour.", "Hm.", "Four."),
        ("\n<think>Hm.</think>Four.\n", "Hm.", "Four."),
        ("<think>\n\n</think>\n\nFour.", "", "Four."),
        ("<THINKING>Hm.</THINKING> Four.", "Hm.", "Four."),
        ("<reasoning>Hm.</reasoning>Four.", "Hm.", "Four."),
        ("<thought>Hm.</thought>Four.", "Hm.", "Four."),
        ("<thinking>a<reflection>b</reflection>c</thinking><output>Four.</output>", None, "Four."),
        ("[THINK]Hm.[/THINK]Four.", "Hm.", "Four."),
        ("◁think▷Hm.◁/think▷Four.", "Hm.", "Four."),
        ("<seed:think>Hm.</seed:think>Four.", "Hm.", "Four."),
        ("<|channel>thought\nHm.\n<channel|>Four.", "Hm.", "Four."),
        (
            "<|begin_of_thought|>\nHm.\n<|end_of_thought|>\n\n"
            "<|begin_of_solution|>\nFour.\n<|end_of_solution|>",
            "Hm.",
            "Four.",
        ),
        (
            "<|START_THINKING|>Hm.<|END_THINKING|><|START_RESPONSE|>Four.<|END_RESPONSE|>",
            "Hm.",
            "Four.",
        ),
        ("<think>Hm.</think><answer>Four.</answer>", "Hm.", "Four."),
        # The prompt opened it.
        ("Hm.\n</think>\n\nFour.", "Hm.", "Four."),
        ("Hm.</think>No.</think>Four.", "Hm.\nNo.", "Four."),
        ("Hm.[/THINK]Four.", "Hm.", "Four."),
        # Thoughts within thoughts, and several of them.
        ("<think>a<think>b</think>c</think>Four.", None, "Four."),
        ("<think>They wrote <think> to me.</think>Four.", None, "Four."),
        ("<think>a</think>\n<think>b</think>\nFour.", "a\nb", "Four."),
        ("Let me see.\n<think>Hm.</think>\nFour.", "Hm.", "Let me see.\n\nFour."),
        ("<think>`</think>` ends it.</think>Four.", "`</think>` ends it.", "Four."),
    ],
)
def test_the_thought_is_cut_from_the_reply(text, thought, reply):
    found = split_thought(text)
    assert (found.reply, found.finished) == (reply, True)
    assert thought is None or found.thought == thought


CHANNELS = "<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant"


@pytest.mark.parametrize(
    ("text", "thought", "reply"),
    [
        (f"{CHANNELS}<|channel|>final<|message|>Four.<|return|>", "Hm.", "Four."),
        (f"<|start|>assistant{CHANNELS}<|channel|>final<|message|>Four.", "Hm.", "Four."),
        ("<|channel|>final<|message|>Four.<|return|>", "", "Four."),
        (
            "Hm.<|end|><|start|>assistant<|channel|>final<|message|>Four.<|return|>",
            "Hm.",
            "Four.",
        ),
        (
            f"{CHANNELS}<|channel|>commentary to=functions.add <|constrain|>json<|message|>"
            '{"a": 2}<|call|><|start|>assistant<|channel|>final<|message|>Four.',
            'Hm.\n{"a": 2}',
            "Four.",
        ),
        ("analysisHm.assistantfinalFour.", "Hm.", "Four."),
    ],
)
def test_the_reply_is_the_final_channel(text, thought, reply):
    assert split_thought(text) == (reply, thought, True)


@pytest.mark.parametrize(
    "text",
    [
        "<think>Hm, what if",
        "  <think>\n",
        "<think>a</think><think>b",
        "[THINK]Hm.",
        "<|channel|>analysis<|message|>Hm.",
        CHANNELS,
        "<|channel|>",
    ],
)
def test_a_thought_that_never_ends_is_no_reply(text):
    assert split_thought(text)[::2] == ("", False)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "  Four.\n",
        "I think, therefore I am.",
        "Wrap it in <think> and </think>, then go on.",
        "End it with `</think>`.",
        'It prints "<think>", and never "</think>".',
        "`<think>` opens it.",
        "For example:\n```\n<think>\nHm.\n</think>\n```\n",
        "Four.\n<think>\nor five",
        "thinking: it is four",
        "<answer>Four.</answer>",
        "The mark <|channel|>final<|message|> begins a reply.",
        "analysis of the final",
    ],
)
def test_a_text_without_thoughts_is_its_own_reply(text):
    assert split_thought(text) == (text, "", True)


@pytest.mark.parametrize(
    "text",
    [
        *(f"Four.{end}" for end in ("</s>", "<|im_end|>", "<|eot_id|>\n", "<end_of_turn>\n")),
        *(f"Four.{end}" for end in ("<|endoftext|>", "<\uff5cend▁of▁sentence\uff5c>", "<turn|>")),
        "Four.<|im_end|>\n<|endoftext|>",
        "assistant\nFour.",
        "assistant\n\nFour.",
        "Assistant: Four.",
        "**Assistant:** Four.",
        "<|im_start|>assistant\nFour.<|im_end|>",
        "<|start_header_id|>assistant<|end_header_id|>\n\nFour.<|eot_id|>",
        "<start_of_turn>model\nFour.<end_of_turn>",
        "<|assistant|>\nFour.<|end|>",
        "<\uff5cAssistant\uff5c>Four.",
        "[/INST] Four.</s>",
        "### Response:\nFour.",
    ],
)
def test_the_marks_of_a_turn_are_no_part_of_its_text(text):
    assert without_turn_marks(text) == "Four."


@pytest.mark.parametrize(
    "text",
    [
        "assistant",
        "assistant\nmanager\nclerk",
        "assistants are people",
        "Assistant: Hello.\nUser: Hi.\nAssistant: Bye.",
        "Assistant professors teach.",
        "Assistant:",
        "Write </s> at the end.",
        "Hm.<|end_of_thought|>",
    ],
)
def test_a_role_or_an_end_that_a_text_speaks_of_stays(text):
    assert without_turn_marks(text) == text


def test_a_text_from_a_server_loses_marks_and_thought():
    text = "<|im_start|>assistant\n<think>Hm.</think>\n\nassistant: Four.<|im_end|>\n"
    assert spoken(text) == ("Four.", "Hm.", True)
    assert spoken(f"{CHANNELS}<|channel|>final<|message|>Four.<|return|>").reply == "Four."


HOSTILE: dict[str, Callable[[int], str]] = {
    "empty thoughts": lambda size: "<think></think>\n" * size,
    "thoughts in thoughts": lambda size: "\n<think>" * size + "</think>" * size,
    "open thoughts": lambda size: "<think>" * size,
    "ends of turns": lambda size: "<|im_end|>" * size,
    "channels": lambda size: "<|channel|>" * size,
    "paragraphs": lambda size: "a\n\n" * size + "!",
    "blank lines": lambda size: " \n" * size,
}


@pytest.mark.parametrize("before", ["", "assistant\n"], ids=["bare", "with a role"])
@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
def test_a_long_text_takes_time_in_proportion_to_its_length(text, before):
    assert grows_in_proportion(spoken, lambda size: before + text(size), 20_000)
