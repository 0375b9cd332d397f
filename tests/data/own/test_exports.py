"""What chat programs export, and texts by a chat template: read as the conversations they are."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.data.own_files import ACTOR, REWARD, RLHF, build, errors_of, jsonl, put

USER, ASSISTANT = "user", "assistant"


def node(
    name: str, parent: str | None, role: str, *parts: Any, kind: str = "text", **more: Any
) -> dict[str, Any]:
    content = {"content_type": kind, "parts": list(parts)}
    message = {"author": {"role": role}, "content": content, "recipient": "all", **more}
    return {name: {"id": name, "parent": parent, "message": message, "children": []}}


def chatgpt(*nodes: dict[str, Any], newest: str | None = None) -> dict[str, Any]:
    root = {"root": {"id": "root", "parent": None, "message": None, "children": []}}
    mapping = {name: value for each in (root, *nodes) for name, value in each.items()}
    return {"title": "A talk", "create_time": 1.5, "mapping": mapping, "current_node": newest}


def replies(folder: Path, row: dict[str, Any]) -> list[tuple[list[str], str]]:
    """The prompts' texts and the reply of each row that the actor learns from."""
    put(folder, f"{ACTOR}.json", json.dumps([row]).encode())
    tables, _ = build(folder)
    return [([turn["content"] for turn in r["prompt"]], r["completion"]) for r in tables["actor"]]


def test_of_chatgpt_s_export_the_branch_that_was_kept_is_read(folder: Path) -> None:
    talk = chatgpt(
        node("s", "root", "system", ""),
        node("m", "s", USER, kind="user_editable_context"),
        node("a", "m", USER, "Hi"),
        node("b", "a", ASSISTANT, "Bad start."),
        node("c", "a", ASSISTANT, kind="thoughts"),
        node("d", "c", ASSISTANT, "Hello."),
        node("e", "d", ASSISTANT, "How are you?"),
        node("f", "e", USER, "Unanswered"),
        newest="f",
    )
    assert replies(folder, talk) == [(["Hi"], "Hello.\n\nHow are you?")]


def test_without_a_current_node_the_newest_leaf_is(folder: Path) -> None:
    talk = chatgpt(
        node("a", "root", USER, "Hi"),
        node("b", "a", ASSISTANT, "1"),
        node("c", "a", ASSISTANT, "2"),
    )
    assert replies(folder, talk) == [(["Hi"], "2")]


def test_a_reply_that_rests_on_a_tool_or_a_picture_is_not_imitated(folder: Path) -> None:
    talk = chatgpt(
        node("a", "root", USER, "Weather?"),
        node("b", "a", ASSISTANT, kind="code", recipient="browser"),
        node("c", "b", "tool", "Sunny, 20 degrees"),
        node("d", "c", ASSISTANT, "It is sunny."),
        node("e", "d", USER, "Thanks!"),
        node("f", "e", ASSISTANT, "You are welcome."),
        node("g", "f", USER, {"asset_pointer": "file"}, "What is this?", kind="multimodal_text"),
        node("h", "g", ASSISTANT, "A cat."),
        node("i", "h", USER, {"asset_pointer": "file"}, kind="multimodal_text"),
        node("j", "i", ASSISTANT, "A dog."),
        newest="j",
    )
    assert replies(folder, talk) == [(["Weather?", "It is sunny.", "Thanks!"], "You are welcome.")]


def test_a_tree_that_goes_round_or_is_none_ends(folder: Path) -> None:
    talk = chatgpt(node("a", "b", USER, "Hi"), node("b", "a", ASSISTANT, "Hello"), newest="b")
    assert replies(folder, talk) == [(["Hi"], "Hello")]
    put(folder, f"{ACTOR}.json", json.dumps([{"title": "x", "mapping": {"a": "b"}}]).encode())
    assert "row 1, field mapping: is no tree of messages by their ids" in errors_of(folder)


def test_claude_s_export_is_read(folder: Path) -> None:
    def said(sender: str, text: str, **more: Any) -> dict[str, Any]:
        return {"uuid": "u", "sender": sender, "text": text, "attachments": [], **more}

    parts = [{"type": "thinking", "thinking": "Hm."}, {"type": "text", "text": "Hello."}]
    talk = {
        "uuid": "x",
        "name": "A talk",
        "chat_messages": [
            said("human", "Hi"),
            said("assistant", "Hm. Hello.", content=parts),
            said("human", "Read this", attachments=[{"file_name": "a.txt"}]),
            said("assistant", "Read."),
            said("human", "And?"),
            said("assistant", "Done."),
        ],
    }
    assert replies(folder, talk) == [
        (["Hi"], "Hello."),
        (["Hi", "Hello.", "Read this", "Read.", "And?"], "Done."),
    ]
    talk["chat_messages"] = [said("someone", "Hi")]
    put(folder, f"{ACTOR}.json", json.dumps([talk]).encode())
    assert "holds the sender 'someone'; write human or assistant" in errors_of(folder)


def test_gemini_s_contents_are_read(folder: Path) -> None:
    talk = {
        "systemInstruction": {"role": "system", "parts": [{"text": "Be brief."}]},
        "contents": [
            {"role": "user", "parts": [{"text": "Hi"}]},
            {"role": "model", "parts": [{"text": "Hel"}, {"text": "lo."}]},
            {"role": "user", "parts": [{"inlineData": {}}, {"text": "This?"}]},
            {"role": "model", "parts": [{"text": "A cat."}]},
        ],
    }
    assert replies(folder, talk) == [(["Be brief.", "Hi"], "Hello.")]
    talk["contents"] = [{"role": "user", "parts": "Hi"}]
    put(folder, f"{ACTOR}.json", json.dumps([talk]).encode())
    assert "field contents: 'Hi' is no list of objects" in errors_of(folder)


CHATML = "<|im_start|>{}\n{}<|im_end|>\n"


@pytest.mark.parametrize(
    ("text", "prompt", "reply"),
    [
        (
            CHATML.format("system", "Be brief.") + CHATML.format("user", "Hi\nyou")
            + CHATML.format("assistant", "Hello.") + "<|im_start|>assistant\n",
            ["Be brief.", "Hi\nyou"],
            "Hello.",
        ),
        (
            "<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\nHi<|eot_id|>"
            "<|start_header_id|>assistant<|end_header_id|>\n\nHello.<|eot_id|>",
            ["Hi"],
            "Hello.",
        ),
        (
            "<bos><start_of_turn>user\nHi<end_of_turn>\n<start_of_turn>model\nHello.<end_of_turn>\n",
            ["Hi"],
            "Hello.",
        ),
        ("<|user|>\nHi</s>\n<|assistant|>\nHello.</s>\n", ["Hi"], "Hello."),
        ("<|user|>\nHi<|end|>\n<|assistant|>\nHello.<|end|>\n<|endoftext|>", ["Hi"], "Hello."),
        (
            "<s>[INST] <<SYS>>\nBe brief.\n<</SYS>>\n\nHi [/INST] Hello. </s>"
            "<s>[INST] More? [/INST] No. </s>",
            ["Be brief.", "Hi", "Hello.", "More?"],
            "No.",
        ),
        ("### Human: Hi### Assistant: Hello.", ["Hi"], "Hello."),
        (
            "Below is an instruction that describes a task.\n\n### Instruction:\nTranslate\n\n"
            "### Input:\nHund\n\n### Response:\ndog",
            ["Translate\n\nHund"],
            "dog",
        ),
    ],
)  # fmt: skip
def test_a_text_by_a_chat_template_is_the_conversation_it_was(
    folder: Path, text: str, prompt: list[str], reply: str
) -> None:
    assert replies(folder, {"text": text, "source": "x"})[-1] == (prompt, reply)


def test_a_plain_text_is_of_no_format(folder: Path) -> None:
    put(folder, f"{ACTOR}.jsonl", jsonl([{"text": "A story of <|im_start|>user\n things."}]))
    assert "is of no format that is read; its fields are text" in errors_of(folder)


def test_a_text_beside_what_it_was_made_of_is_passed_over(folder: Path) -> None:
    row = {"instruction": "Hi", "output": "Hello.", "text": "### Human: Other### Assistant: Same"}
    assert replies(folder, row) == [(["Hi"], "Hello.")]


@pytest.mark.parametrize("name", [REWARD, RLHF])
def test_of_conversations_the_other_tables_learn_too(folder: Path, name: str) -> None:
    put(folder, f"{name}.jsonl", jsonl([{"text": "### Human: Hi### Assistant: Hello."}]))
    tables, outcome = build(folder)
    [row] = tables["reward" if name == REWARD else "rlhf"]
    assert [turn["content"] for turn in row["prompt"]] == ["Hi"]
    assert ("of these the prompts alone" in outcome.warnings[0]) == (name == RLHF)


@pytest.mark.parametrize(
    "row",
    [
        {"chat_messages": []},
        chatgpt(node("a", "root", USER), node("b", "a", ASSISTANT, "Alone")),
        {"contents": [{"role": "user", "parts": [{"text": "Unanswered"}]}]},
    ],
)
def test_a_conversation_that_holds_no_reply_is_told(folder: Path, row: dict[str, Any]) -> None:
    put(folder, f"{ACTOR}.json", json.dumps([row]).encode())
    tables, outcome = build(folder)
    assert not tables["actor"]
    assert "1 conversations hold no question with a reply" in outcome.warnings[-1]


def test_a_message_whose_content_is_a_text_is_read(folder: Path) -> None:
    said = [("human", "Hi"), ("assistant", "Hello.")]
    messages = [{"sender": sender, "text": "", "content": text} for sender, text in said]
    assert replies(folder, {"chat_messages": messages}) == [(["Hi"], "Hello.")]
