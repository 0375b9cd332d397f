"""What a training decides, once and before any weights are loaded; whatever follows reads it here.

`begin` refuses what this machine hasn't got before any row is read. The stage then reads its rows,
and `decide` makes the plan, for them and for the memory that is free.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from chatllama_pipeline.errors import SettingsError
from chatllama_pipeline.launch.out_of_memory import tell_choice
from chatllama_pipeline.models.bases.preflight import Preflight, preflight
from chatllama_pipeline.models.loading import load_config, load_tokenizer
from chatllama_pipeline.models.memory.means import Means
from chatllama_pipeline.models.memory.plan import MemoryPlan, require_memory, with_micro_batch
from chatllama_pipeline.records import Check, StageSpec
from chatllama_pipeline.seeds import stage_seed
from chatllama_pipeline.settings import (
    SECTION_OF,
    AssistantSettings,
    PpoSettings,
    SupervisedSection,
    TrainedSection,
    model_section,
)
from chatllama_pipeline.settings.deepspeed_config import ignored
from chatllama_pipeline.training.batches import Shares
from chatllama_pipeline.training.distributed import (
    rank,
    require_devices,
    require_known_to_deepspeed,
)
from chatllama_pipeline.training.resume.snapshot import Layout, require_layout

# Of `max_steps`, what ratings add at most, however many there are.
MOST_ON_TOP = 1.0


@dataclass(frozen=True)
class Beginning:
    """What is known before any row is read: by what is trained, and what the model reads.

    `training` says by what the stage is made (actor_dpo is the actor_ppo of DPO). `tokenizer` and
    `config` are those of the model that learns.
    """

    spec: StageSpec
    settings: AssistantSettings
    training: str
    means: Means
    tokenizer: Any
    config: Any
    before: Preflight

    @property
    def section_name(self) -> str:
        return SECTION_OF[self.training]

    @property
    def section(self) -> TrainedSection:
        """The settings that the training goes by."""
        return self.settings.training(self.training)

    @property
    def seed(self) -> int:
        return stage_seed(self.settings.seed, self.spec.stage)

    def seed_of(self, part: str) -> int:
        """The seed of a part of the stage, such as its adapter."""
        return stage_seed(self.seed, part)


@dataclass(frozen=True)
class TrainingPlan(Beginning):
    """How the stage trains, for rows of at most `longest` tokens.

    `settings` have the micro-batch that was chosen; `shares` say how a batch is cut up. `folders`
    are those of the models by their roles. `steps` are optimizer steps, of PPO its iterations.
    `fits` is the check of `memory`; `warnings` tell what of ds_config.json was ignored.
    """

    folders: Mapping[str, Path]
    longest: int
    shares: Shares
    steps: int
    memory: MemoryPlan
    fits: Check
    warnings: list[str]

    @property
    def is_main(self) -> bool:
        """Whether this process is the one that writes."""
        return self.shares.rank == 0

    def for_rows(self, rows: int) -> TrainingPlan:
        """The plan for so many rows, where they are made after it."""
        return dataclasses.replace(self, steps=_steps(self.section, rows))


def begin(spec: StageSpec, settings: AssistantSettings, folder: Path) -> Beginning:
    """What is known of a training of the model in `folder`.

    Raises SettingsError for more processes than GPUs, DeepSpeed without what it builds with or with
    what it doesn't know, a batch that the processes can't share, a tokenizer that contradicts its
    model; StoreError for a state of a layout that this one can't go on from.
    """
    training = settings.trained_as(spec.stage)
    means = Means.of(training, settings, spec.device)
    if settings.learns(training):
        require_devices(means)
        _shares(training, settings, means)
        require_known_to_deepspeed(means)
        require_layout(Path(spec.run_folder), Layout.of(means))
    tokenizer, config = load_tokenizer(folder), load_config(folder)
    section = model_section(training)
    limit = getattr(settings, section).max_sequence_length
    before = preflight(tokenizer, config, section, limit)
    return Beginning(spec, settings, training, means, tokenizer, config, before)


def decide(
    known: Beginning, folders: Mapping[str, Path], longest: int, rows: int, rated: int = 0
) -> TrainingPlan:
    """The plan for `rows` training rows of at most `longest` tokens, on the models in `folders`;
    `rated` of the rows came of ratings.

    Raises CheckError where memory would not do.
    """
    training, settings, means = known.training, known.settings, known.means
    if training == "actor_ppo":
        settings = with_micro_batch(folders, settings, means, longest)
    shares = _shares(training, settings, means)
    tell_choice(known.spec, shares.micro_batch_size)
    fits, memory = require_memory(training, folders, settings, means, longest)
    told = (training, settings, means.processes, means.bfloat16)
    return TrainingPlan(
        **{**vars(known), "settings": settings},
        folders=folders,
        longest=longest,
        shares=shares,
        steps=_steps(settings.training(training), rows, rated),
        memory=memory,
        fits=fits,
        warnings=ignored(means.deepspeed, *told) if means.deepspeed else [],
    )


def _steps(section: TrainedSection, rows: int, rated: int = 0) -> int:
    """Optimizer steps; `max_steps` are those without the `rated` rows, which come on top as they do
    in epochs: else as much of all other rows would be unlearned as is learned of ratings."""
    if isinstance(section, PpoSettings):
        return section.iterations
    assert isinstance(section, SupervisedSection)
    if section.max_steps is None:
        return section.epochs * math.ceil(rows / section.batch_size)
    share = min(rated / (rows - rated), MOST_ON_TOP) if rows > rated else 0.0
    return section.max_steps + round(section.max_steps * share)


def _shares(training: str, settings: AssistantSettings, means: Means) -> Shares:
    """How a batch is cut up; raises SettingsError where it, or PPO's iteration, doesn't divide."""
    section, ranks = settings.training(training), means.processes
    if not settings.learns(training):
        return Shares(section.minibatch_size, section.rows_per_forward(ranks), ranks, rank())
    if isinstance(section, PpoSettings) and section.rollouts_per_iteration % ranks:
        raise SettingsError(
            f"{SECTION_OF[training]}.{section.rollouts_in_words} is not a multiple of "
            f"compute.processes {ranks}: choose numbers that are"
        )
    key = f"{SECTION_OF[training]}.batch_size"
    return Shares.of(section.minibatch_size, section.micro_batch_size, ranks, rank(), key)
