"""The source `hh_rlhf`: Anthropic's human preferences about helpfulness and harmlessness.

Bai et al. 2022, "Training a Helpful and Harmless Assistant with RLHF" (MIT licence). A row holds
two transcripts that share all but the last reply.
"""

from __future__ import annotations

import re
from typing import Any

from chatllama_pipeline.data.sources.places import Home
from chatllama_pipeline.data.sources.raw import text_defect
from chatllama_pipeline.data.splits import Messages, Row

# Its folder of red-team attempts holds transcripts without a preference.
HOME = Home("Anthropic/hh-rlhf", "CHATLLAMA_HH_RLHF", "mit", leave_out=("red-team-attempts",))
SUBSETS = ("harmless-base", "helpful-base", "helpful-online", "helpful-rejection-sampled")
NEEDED = ("chosen", "rejected")

_MARK = re.compile(r"\n\n(Human|Assistant):")
_ROLES = {"Human": "user", "Assistant": "assistant"}


def read_transcript(text: str) -> Messages:
    """The turns of a transcript, each stripped; empty if it doesn't start with a mark."""
    start, *pieces = _MARK.split(text)
    if start.strip():
        return []
    return [
        {"role": _ROLES[mark], "content": content.strip()}
        for mark, content in zip(pieces[::2], pieces[1::2], strict=True)
    ]


def convert(row: dict[str, Any], domain: str = "") -> Row | str:
    """A pair in `schemas.PAIR_SCHEMA`, or the defect for which the row is dropped.

    Inside the prompt several assistant turns in a row are joined, and the pair then has a key
    `mended`; a reply of several turns is none that could be learned. `domain` is the subset.
    """
    texts = [row.get(name) for name in NEEDED]
    defect = next(filter(None, map(text_defect, texts)), None)
    if defect:
        return defect
    chosen, rejected = (read_transcript(str(text)) for text in texts)
    defect = _ending_defect(chosen) or _ending_defect(rejected)
    if defect:
        return defect
    prompt, other = _joined(chosen[:-1]), _joined(rejected[:-1])
    defect = _prompt_defect(prompt) or _prompt_defect(other)
    if defect:
        return defect
    if prompt != other:
        return "prompts_differ"
    if chosen[-1] == rejected[-1]:
        return "identical_replies"
    pair = {
        "prompt": prompt,
        "chosen": chosen[-1]["content"],
        "rejected": rejected[-1]["content"],
        "strength": 1.0,
        "source": "hh_rlhf",
        "domain": domain,
    }
    return pair if len(prompt) == len(chosen) - 1 else {**pair, "mended": "several_assistant_turns"}


def _ending_defect(turns: Messages) -> str | None:
    if not turns:
        return "no_transcript"
    if turns[-1]["role"] == "user":
        return "ends_on_human_turn"
    if not turns[-1]["content"]:
        return "empty_reply"
    if len(turns) > 1 and turns[-2]["role"] == "assistant":
        return "several_assistant_turns"
    return None


def _joined(turns: Messages) -> Messages:
    """The turns, those of the assistant that follow one another as one."""
    joined: Messages = []
    for turn in turns:
        if joined and turn["role"] == "assistant" == joined[-1]["role"]:
            both = f"{joined[-1]['content']}\n\n{turn['content']}".strip()
            joined[-1] = {"role": "assistant", "content": both}
        else:
            joined.append(turn)
    return joined


def _prompt_defect(prompt: Messages) -> str | None:
    # Chat templates refuse what doesn't alternate from the user on.
    expected = (["user", "assistant"] * len(prompt))[: len(prompt)]
    if not prompt or [turn["role"] for turn in prompt] != expected:
        return "turns_do_not_alternate"
    return None if all(turn["content"] for turn in prompt) else "empty_turn"
