"""What PPO, RLOO and GRPO decide before models are loaded: prompts, roles' folders, the plan."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from chatllama_pipeline.data.spill.rows import SpilledRows
from chatllama_pipeline.data.tables import SplitRows, as_prompt, rows_by_hash
from chatllama_pipeline.errors import DataError
from chatllama_pipeline.models.bases.preflight import prompt_room
from chatllama_pipeline.models.chat.template import shortened_prompt
from chatllama_pipeline.models.families.kinds import kind_of
from chatllama_pipeline.models.loading import load_config, load_tokenizer
from chatllama_pipeline.progress import Progress, counted
from chatllama_pipeline.records import Prompt, Split, StageSpec
from chatllama_pipeline.settings import AssistantSettings
from chatllama_pipeline.training.plan import Beginning, TrainingPlan, begin, decide
from chatllama_pipeline.training.ppo.methods import METHODS
from chatllama_pipeline.training.ppo.model import same_vocabulary


@dataclass(frozen=True)
class Prompts:
    """The prompts that fit, as messages and as token ids; how many didn't, or lost old turns."""

    messages: Sequence[Prompt]
    ids: Sequence[list[int]]
    dropped: int
    shortened: int

    @property
    def in_words(self) -> str:
        return (
            f"{len(self.ids)} prompts, {self.shortened} of them without their oldest turns; "
            f"{self.dropped} too long and left out"
        )

    @property
    def longest(self) -> int:
        return max((len(ids) for ids in self.ids), default=0)


def prepare(
    spec: StageSpec, settings: AssistantSettings, progress: Progress
) -> tuple[TrainingPlan, Prompts]:
    """The prompts that fit, and the plan for them."""
    sft, actor = Path(spec.inputs["actor_sft"]), settings.actor_config
    known = begin(spec, settings, sft)
    critic = _critic(known, sft, Path(spec.inputs["reward_model"]))
    readers = {"actor": known.config} | {role: load_config(f) for role, f in critic.items()}
    room = prompt_room(readers, known.tokenizer, actor)
    table = Path(spec.inputs["rlhf_training_data"])
    prompts = read_prompts(table, Path(spec.run_folder), known.tokenizer, room, settings)
    folders = {
        "policy": sft,
        "reference": sft,
        **critic,
        "reward": Path(spec.inputs["reward_model"]),
    }
    plan = decide(known, folders, prompts.longest + actor.max_tokens, len(prompts.ids))
    ppo, rows = plan.settings.trainer_config, plan.shares.micro_batch_size
    progress.say(f"{plan.before}; {prompts.in_words}")
    progress.say(
        f"longest prompt {prompts.longest} tokens; {ppo.iterations} iterations of "
        f"{ppo.rollouts_per_iteration}, {rows} rows per forward; {plan.fits.description}"
    )
    return plan, prompts


def _critic(known: Beginning, sft: Path, reward_model: Path) -> dict[str, Path]:
    """Where the critic starts, where it is a model of its own.

    From the reward model, where that reads the same tokens as the actor, else from the SFT weights.
    """
    settings = known.settings
    if not METHODS[settings.improve_by].has_critic or settings.has_shared_trunk:
        return {}
    alike = kind_of(known.config) is kind_of(load_config(reward_model)) and same_vocabulary(
        known.tokenizer, load_tokenizer(reward_model)
    )
    return {"critic": reward_model if alike else sft}


def held_out_prompts(folder: Path, tokenizer: Any, longest: int, most: int) -> Prompts:
    """At most `most` validation prompts of at most `longest` tokens, in the order of their hash."""
    messages: list[Prompt] = []
    ids: list[list[int]] = []
    for row in rows_by_hash(folder, "validation"):
        if len(ids) == most:
            break
        prompt = as_prompt(row["prompt"])
        tokens, _ = shortened_prompt(tokenizer, prompt, longest)
        if len(tokens) <= longest:
            messages.append(prompt)
            ids.append(tokens)
    return Prompts(messages, ids, 0, 0)


def read_prompts(
    folder: Path,
    waiting: Path,
    tokenizer: Any,
    longest_prompt: int,
    settings: AssistantSettings,
    split: Split = "train",
) -> Prompts:
    """A split's prompts of at most `longest_prompt` tokens; DataError without a training one. What
    memory doesn't hold goes to files in `waiting`."""
    messages: SpilledRows[Prompt] = SpilledRows(waiting)
    ids: SpilledRows[list[int]] = SpilledRows(waiting)
    shortened = 0
    rows = SplitRows(folder, split)
    for row in counted("tokenizes prompts", rows, len(rows), "prompts"):
        prompt = as_prompt(row["prompt"])
        prompt_tokens, cut_turns = shortened_prompt(tokenizer, prompt, longest_prompt)
        if len(prompt_tokens) <= longest_prompt:
            shortened += cut_turns > 0
            messages.append(prompt)
            ids.append(prompt_tokens)
    if not ids and split == "train":
        raise DataError(
            f"{folder}: none of the {len(rows)} train prompts fits in {longest_prompt} tokens, "
            f"which is what actor_config.max_tokens {settings.actor_config.max_tokens} leaves of "
            f"max_sequence_length {settings.actor_config.max_sequence_length}: lower max_tokens, "
            "raise max_sequence_length, or add prompts"
        )
    return Prompts(messages, ids, len(rows) - len(ids), shortened)
