"""Who looks on while a policy climbs: the judge of the release gate, where training may ask it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from chatllama_pipeline.llm.local.server import Machine
from chatllama_pipeline.llm.providers import Judge, open_judge
from chatllama_pipeline.llm.templates import load_templates
from chatllama_pipeline.records import StageSpec
from chatllama_pipeline.settings import AssistantSettings, RoleSettings
from chatllama_pipeline.settings.training.rewards import JUDGE, REWARD_MODEL
from chatllama_pipeline.store.manifests import hash_file
from chatllama_pipeline.training.terms.asking import warnings_of


def unwatched_because(spec: StageSpec, settings: AssistantSettings) -> str | None:
    """Why training goes on without the gate's judge; None where it is asked."""
    if fault := settings.watch_fault():
        return fault
    if judges_what_it_paid(settings, Path(spec.inputs["reward_model"])):
        return "evaluation.judge is what training is paid by, and would see what the reward sees"
    return None


@dataclass(frozen=True)
class Gate:
    """Who judges for the gate, and why training may not ask (None where it may).

    `judge` is there in the one process that asks.
    """

    name: str
    judge: Judge | None
    why_not: str | None

    def warnings(self) -> list[str]:
        return warnings_of(self.judge)


@contextlib.contextmanager
def open_gate(spec: StageSpec, settings: AssistantSettings, asks: bool) -> Iterator[Gate]:
    """The gate's judge for a training, within llm.max_usd; one without a key is told here."""
    role, why_not = settings.role("evaluation_judge"), unwatched_because(spec, settings)
    if why_not is not None or not asks:
        yield Gate(role.provider, None, why_not)
        return
    # Without an LLM that judges by them, the person's templates are no input.
    templates = Path(spec.inputs.get("personal_data", spec.output))
    machine = Machine(spec.device, spec.threads)
    template = load_templates(templates)["reward"]
    with open_judge(role, template, Path(spec.run_folder), machine) as judge:
        yield Gate(judge.name if judge else role.provider, judge, None)


def judges_what_it_paid(settings: AssistantSettings, reward_model: Path) -> bool:
    """Whether the gate's judge is a model that PPO was paid by, wherever it is copied."""
    gate, rewards = settings.role("evaluation_judge"), settings.rewards
    if rewards.pays_by(REWARD_MODEL) and is_reward_term(gate, reward_model):
        return True
    paying = settings.role("judge")
    local = paying.provider == "transformers" and Path(paying.model).is_dir()
    return local and rewards.pays_by(JUDGE) and is_reward_term(gate, Path(paying.model))


def is_reward_term(role: RoleSettings, paying: Path) -> bool:
    """Whether a judge is the model in a folder, which PPO is paid by: this folder, or weights."""
    folder = Path(role.model)
    if role.provider != "transformers" or not folder.is_dir():
        return False
    if folder.resolve() == paying.resolve():
        return True
    judging, terms = (
        {hash_file(file) for file in place.glob("*.safetensors")} for place in (folder, paying)
    )
    return bool(judging & terms)
