"""What an asset will ask, before anything is asked: for `preview`, and for the first estimate."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from chatllama_pipeline.llm.client.requests import LlmClient, LlmRequest
from chatllama_pipeline.llm.judge.questions import LlmJudge
from chatllama_pipeline.llm.writer.requests import WriterRequests
from chatllama_pipeline.llm.writer.texts import QUALITIES
from chatllama_pipeline.records import Message, Prompt, user_prompt

# Stands for a text that is yet to be written: about 75 tokens of prose.
_UNWRITTEN = "word " * 60


@dataclass(frozen=True)
class Plan:
    """The requests of an asset, as far as they are known; `exact` says that they all are.

    `shown` are the first of each sort, with a heading.
    """

    requests: list[LlmRequest]
    shown: list[tuple[str, LlmRequest]]
    exact: bool


def plan_writing(asset: str, requests: WriterRequests, count: int, way: str, turns: int) -> Plan:
    """What writing `count` rows asks if nothing is refused; later examples are yet unwritten."""
    per_call = requests.rows_per_call
    if asset == "synthetic_prompts":
        asked = [requests.questions(n, (), "rlhf").request for n in range(_calls(count, per_call))]
        return Plan(asked, [("prompts", asked[0])], exact=False)
    if asset == "synthetic_completions":
        return _plan_completions(requests, count)
    if way == "self_instruct":
        asked = [requests.pairs(n, ()).request for n in range(_calls(count, per_call))]
        return Plan(asked, [("questions with replies", asked[0])], exact=False)
    if way == "question_answer":
        asked = [requests.questions(n, (), "actor").request for n in range(_calls(count, per_call))]
        replies = [requests.reply(n, user_prompt(_UNWRITTEN)).request for n in range(count)]
        shown = [("questions", asked[0]), ("a reply", _example_reply(requests))]
        return Plan([*asked, *replies], shown, exact=False)
    talks = [_talk(requests, n, turns) for n in range(_calls(count, turns))]
    shown = [("the person", talks[0][0]), ("the assistant", _example_reply(requests))]
    return Plan([request for talk in talks for request in talk], shown, exact=False)


def plan_judging(
    judge: LlmJudge,
    rows: Sequence[tuple[Prompt, str]],
    pairs: Sequence[tuple[Prompt, str, str]],
    samples: int,
    unwritten: int = 0,
) -> Plan:
    """What scoring `rows` and comparing `pairs` asks; `unwritten` rows are not there yet."""
    missing = [(user_prompt(f"{n} {_UNWRITTEN}"), _UNWRITTEN) for n in range(unwritten)]
    scored = judge.score_requests([*rows, *missing], samples)
    compared = judge.compare_requests(pairs)
    shown = [("a score", scored[0])] if rows else []
    if pairs:
        shown.append(("a comparison", compared[0]))
    return Plan([*scored, *compared], shown, exact=not unwritten)


def plan_comparing(judge: LlmJudge, prompts: Sequence[Prompt], reply_tokens: int) -> Plan:
    """What comparing two replies to each prompt asks, none of which is sampled yet."""
    reply = "word " * (3 * reply_tokens // 4)
    trios = [(prompt, f"{n} {reply}", f"{reply} {n}") for n, prompt in enumerate(prompts)]
    [shown, _] = judge.compare_requests([(prompts[0], "(before PPO)", "(after PPO)")])
    return Plan(judge.compare_requests(trios), [("a comparison", shown)], exact=False)


def estimate_lines(client: LlmClient, plan: Plan, max_usd: float) -> list[str]:
    """What a plan would cost, and what a person should read before paying, as lines."""
    found = client.estimate(plan.requests)
    about = "" if plan.exact else "about "
    if found.usd is None:
        usd = "price unknown"
    elif found.usd:
        usd = f"at most {found.usd:,.4f} USD of the {max_usd:g} that llm.max_usd allows"
    else:
        usd = "free of charge"
    line = (
        f"estimate: {about}{found.calls:,} calls and {found.cached:,} answered from the cache; "
        f"{about}{found.prompt_tokens:,} prompt tokens, up to {found.completion_tokens:,} of "
        f"replies; {usd}"
    )
    return [line, *(f"note: {note}" for note in found.notes)]


def _calls(count: int, per_call: int) -> int:
    return math.ceil(count / per_call)


def _plan_completions(requests: WriterRequests, count: int) -> Plan:
    needed = _calls(count, len(QUALITIES))
    own = [example.prompt for example in requests.examples][:needed]
    fresh = _calls(needed - len(own), requests.rows_per_call)
    asked = [requests.questions(n, (), "actor").request for n in range(fresh)]
    prompts = [*own, *(user_prompt(_UNWRITTEN) for _ in range(needed - len(own)))]
    tasks = [(prompt, quality) for prompt in prompts for quality in QUALITIES][:count]
    graded = [requests.graded(n, *task).request for n, task in enumerate(tasks)]
    shown = [("questions", asked[0])] if asked else []
    for n in (0, len(QUALITIES) - 1):
        if n < len(tasks):
            shown.append((f"a reply that is {tasks[n][1]}", graded[n]))
    return Plan([*asked, *graded], shown, exact=False)


def _example_reply(requests: WriterRequests) -> LlmRequest:
    """The request of a reply, to the first example's prompt."""
    prompt = requests.examples[0].prompt if requests.examples else user_prompt("...")
    return requests.reply(0, prompt).request


def _talk(requests: WriterRequests, number: int, turns: int) -> list[LlmRequest]:
    asked: list[LlmRequest] = []
    so_far: Prompt = []
    for _ in range(turns):
        asked.append(requests.person(number, so_far).request)
        so_far = [*so_far, Message("user", _UNWRITTEN)]
        asked.append(requests.reply(number, so_far).request)
        so_far = [*so_far, Message("assistant", _UNWRITTEN)]
    return asked
