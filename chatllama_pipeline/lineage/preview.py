"""`chatllama preview NAME`: what models would be asked, and what it would cost.

Calls nobody and needs no key.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path

from chatllama_pipeline.data.own.personal import TEMPLATES_FILE, build_personal_data
from chatllama_pipeline.data.splits import Row
from chatllama_pipeline.data.tables import as_prompt, read_rows
from chatllama_pipeline.lineage.recipes import version_in_use
from chatllama_pipeline.llm.clients import open_client
from chatllama_pipeline.llm.judge.questions import LlmJudge
from chatllama_pipeline.llm.plans import (
    Plan,
    estimate_lines,
    plan_comparing,
    plan_judging,
    plan_writing,
)
from chatllama_pipeline.llm.synthetic import KINDS, writer_requests
from chatllama_pipeline.llm.templates import load_templates
from chatllama_pipeline.records import user_prompt
from chatllama_pipeline.settings import RoleSettings
from chatllama_pipeline.settings.folder import Assistant
from chatllama_pipeline.store.versions import Store

_RULE = "-" * 78


def preview_lines(assistant: Assistant, store: Store) -> Iterator[str]:
    """The first filled prompt of each sort, and the estimate, asset by asset."""
    yield f"assistant {assistant.name}   {assistant.config}"
    yield from (f"warning: {warning}" for warning in assistant.warnings)
    with tempfile.TemporaryDirectory() as folder:
        personal = Path(folder)
        build_personal_data(assistant.folder, assistant.settings, personal)
        for key, template in load_templates(personal).items():
            source = TEMPLATES_FILE if template.own else "our own"
            yield f"template {key:<7} {template.hash}  {source}"
        for asset in KINDS:
            yield from _writing(asset, assistant, personal)
        yield from _scoring(assistant, store, personal)
        yield from _comparing(assistant, store, personal)


def _writing(asset: str, assistant: Assistant, personal: Path) -> Iterator[str]:
    settings = assistant.settings
    role, count = settings.role("writer"), int(getattr(settings.llm, asset))
    yield from _heading(asset, role, f"{count} rows (llm.{asset})")
    if not role.asks_a_model or not count:
        yield "asks no model"
        return
    requests = writer_requests(asset, personal, settings)
    plan = plan_writing(asset, requests, count, settings.llm.conversations_by, settings.llm.turns)
    with open_client(role, personal, only_estimates=True) as client:
        yield from estimate_lines(client, plan, role.max_usd)
    yield from _shown(plan)


def _scoring(assistant: Assistant, store: Store, personal: Path) -> Iterator[str]:
    settings = assistant.settings
    role, llm = settings.role("judge"), settings.llm
    own = [row for row in read_rows(personal, "reward.parquet") if row["score"] is None]
    written = _rows(assistant, store, "synthetic_completions")
    pairs = [row for row in _rows(assistant, store, "preference_data") or [] if _trains(row)]
    pairs = pairs[: llm.scored_pairs]
    unwritten = 0 if written is not None else llm.synthetic_completions
    unwritten += 0 if pairs else 2 * llm.scored_pairs
    each = f"; {llm.judge_samples} times each" if llm.judge_samples > 1 else ""
    yield from _heading(
        "reward_training_data",
        role,
        f"{len(own)} of your replies without a score, {llm.synthetic_completions} synthetic ones, "
        f"the replies of {llm.scored_pairs} pairs{each}",
    )
    if not role.asks_a_model:
        yield "asks no model"
        return
    trios = [(as_prompt(pair["prompt"]), pair["rejected"], pair["chosen"]) for pair in pairs]
    rows = [(as_prompt(row["prompt"]), row["completion"]) for row in [*own, *(written or [])]]
    if llm.agreement_by == "scores":
        rows += [(prompt, reply) for prompt, *replies in trios for reply in replies]
        trios = []
    with _judge(role, personal) as judge:
        plan = plan_judging(judge, rows, trios, llm.judge_samples, unwritten)
        yield from estimate_lines(judge.client, plan, role.max_usd)
    yield from _shown(plan)


def _comparing(assistant: Assistant, store: Store, personal: Path) -> Iterator[str]:
    settings = assistant.settings
    role, most = settings.role("evaluation_judge"), settings.evaluation.prompts
    prompts = [
        as_prompt(row["prompt"])
        for row in _rows(assistant, store, "rlhf_training_data") or []
        if row["split"] == "test"
    ]
    prompts = prompts[:most] or [user_prompt("(a test prompt)")] * most
    yield from _heading("evaluation", role, f"{len(prompts)} test prompts, in both orders")
    if not role.asks_a_model:
        yield "asks no model"
        return
    with _judge(role, personal) as judge:
        plan = plan_comparing(judge, prompts, settings.actor_config.max_tokens)
        yield from estimate_lines(judge.client, plan, role.max_usd)
    yield from _shown(plan)


@contextlib.contextmanager
def _judge(role: RoleSettings, personal: Path) -> Iterator[LlmJudge]:
    template = load_templates(personal)["reward"]
    with open_client(role, personal, only_estimates=True) as client:
        yield LlmJudge(client, template, temperature=role.temperature, max_tokens=role.max_tokens)


def _heading(asset: str, role: RoleSettings, what: str) -> Iterator[str]:
    yield ""
    yield _RULE
    who = f"{role.provider}:{role.model}" if role.asks_a_model else role.provider
    where = f" at {role.base_url}" if role.provider == "openai" else ""
    how = f", temperature {role.temperature:g}" if role.asks_a_model else ""
    yield f"{asset}: {what}"
    yield f"by {who}{where} ({role.key}){how}"


def _shown(plan: Plan) -> Iterator[str]:
    for sort, request in plan.shown:
        yield ""
        yield f"[the first request for {sort}]"
        yield from (message.content for message in request.messages)


def _rows(assistant: Assistant, store: Store, asset: str) -> list[Row] | None:
    """The rows of the version in use; None where there is none."""
    version = version_in_use(asset, assistant, store)
    return read_rows(version.path) if version else None


def _trains(row: Row) -> bool:
    return bool(row["split"] == "train")
