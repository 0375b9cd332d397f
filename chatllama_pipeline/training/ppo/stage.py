"""The RL stage: the SFT actor learns by PPO, RLOO or GRPO to earn the reward model's scores."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator, DeepSpeedPlugin

from chatllama_pipeline.data.tables import as_prompt, read_split
from chatllama_pipeline.errors import DataError, SettingsError
from chatllama_pipeline.launch.out_of_memory import tell_choice
from chatllama_pipeline.machine import processes_started, wants_bfloat16
from chatllama_pipeline.models.adapters.lora import save_model
from chatllama_pipeline.models.bases.preflight import preflight, prompt_room
from chatllama_pipeline.models.chat.replies import reply_texts
from chatllama_pipeline.models.chat.template import shortened_prompt, stop_ids
from chatllama_pipeline.models.families.kinds import kind_of
from chatllama_pipeline.models.generation import end_ids, generate_plainly
from chatllama_pipeline.models.heads import RewardScorer
from chatllama_pipeline.models.loading import load_config, load_tokenizer
from chatllama_pipeline.models.memory.efficiency import make_efficient
from chatllama_pipeline.models.memory.plan import MemoryPlan, require_memory, with_micro_batch
from chatllama_pipeline.models.quiet import quiet_transformers
from chatllama_pipeline.progress import Progress, counted
from chatllama_pipeline.records import Check, Outcome, Prompt, Split, StageSpec
from chatllama_pipeline.seeds import stage_seed
from chatllama_pipeline.settings import ActorSettings, AssistantSettings, PpoSettings
from chatllama_pipeline.settings.deepspeed_config import DeepSpeedPlan, plan_for
from chatllama_pipeline.training.batches import Shares
from chatllama_pipeline.training.distributed import (
    deepspeed_settings,
    once_for_all,
    prepare_processes,
    rank,
)
from chatllama_pipeline.training.ppo.collect import Task
from chatllama_pipeline.training.ppo.loop import Training, train
from chatllama_pipeline.training.ppo.methods import METHODS
from chatllama_pipeline.training.ppo.model import ActorCritic, same_vocabulary
from chatllama_pipeline.training.ppo.roles import Roles, load_roles
from chatllama_pipeline.training.resume.snapshot import require_room
from chatllama_pipeline.training.resume.state import States, made_from
from chatllama_pipeline.training.terms.asking import Asking, Scorer, open_of_stage
from chatllama_pipeline.training.trackers import Trackers

STAGE = "actor_ppo"
CRITIC_FOLDER = "critic"


def run(spec: StageSpec, progress: Progress) -> Outcome:
    """Train the actor; writes its folder, PPO's `critic/`, `curves.json` and `samples.jsonl`.

    Raises SettingsError for settings that contradict each other, DataError where no prompt fits,
    CheckError where memory would not do. Too many non-finite losses give a failed check and no
    payload.
    """
    quiet_transformers()
    settings = AssistantSettings.of_stage(spec)
    check_settings(settings.trainer_config)
    # A function that doesn't import, or a judge without a key, is told before models are loaded.
    with open_of_stage(spec, settings) as asking:
        return _improve(spec, settings, asking, progress)


def _improve(
    spec: StageSpec, settings: AssistantSettings, asking: Asking, progress: Progress
) -> Outcome:
    sft, reward_model = Path(spec.inputs["actor_sft"]), Path(spec.inputs["reward_model"])
    seed = stage_seed(settings.seed, STAGE)
    tokenizer = load_tokenizer(sft)
    config, reward_config = (load_config(f) for f in (sft, reward_model))
    shared = kind_of(config) is kind_of(reward_config) and same_vocabulary(
        tokenizer, load_tokenizer(reward_model)
    )
    method = METHODS[settings.improve_by]
    critic = {"critic": reward_model if shared else sft} if method.has_critic else {}
    folders = {"policy": sft, "reference": sft, **critic, "reward": reward_model}
    limit = settings.actor_config.max_sequence_length
    before = preflight(tokenizer, config, "actor_config", limit)
    readers = {"actor": config} | {role: load_config(folder) for role, folder in critic.items()}
    longest_prompt = prompt_room(readers, tokenizer, settings.actor_config)
    prompts = read_prompts(
        Path(spec.inputs["rlhf_training_data"]), tokenizer, longest_prompt, settings
    )
    longest = prompts.longest + settings.actor_config.max_tokens
    settings = with_micro_batch(folders, settings, longest, spec.device)
    ppo = settings.trainer_config
    tell_choice(spec, rows := check_settings(ppo).micro_batch_size)
    memory, need = require_memory(STAGE, folders, settings, longest, spec.device)
    progress.say(f"{before}; {prompts.in_words}")
    progress.say(
        f"longest prompt {prompts.longest} tokens; {ppo.iterations} iterations of "
        f"{ppo.rollouts_per_iteration}, {rows} rows per forward; {memory.description}"
    )

    plan = plan_for(STAGE, settings, spec.device, processes_started())
    accelerator = make_accelerator(spec.device, ppo, plan)
    sharded = plan is not None and plan.stage == 3
    roles = load_roles(
        sft, reward_model, critic.get("critic"), settings, seed, accelerator.device,
        share=not sharded,
    )  # fmt: skip
    if any(len(group) > 1 for group in roles.sharing):
        progress.say(roles.in_words)
    module = ActorCritic(roles.policy, roles.critic)
    for model in module.trained:
        make_efficient(model, ppo, "trainer_config", need.checkpointing)
    scorer = RewardScorer(reward_model, model=roles.reward)
    stops = end_ids(stop_ids(tokenizer), roles.policy)
    task = _task(prompts, tokenizer, stops, scorer, settings.actor_config)
    task = paid_by(task, asking, scorer, accelerator)
    training = _learn(module, roles, task, spec, settings, accelerator, progress)
    finite = finite_loss(training, ppo, method.has_critic)
    checks = [memory, finite, training.collapse.check(ppo.collapse == "stop")]
    if training.guard.passed:
        with training.whole():
            if accelerator.is_main_process:
                write_payload(Path(spec.output), module, tokenizer, training)
    warnings = [*before.warnings, *_warnings(shared, roles, prompts, settings, sharded)]
    warnings += [*(plan.warnings if plan else []), *training.warnings, *asking.warnings()]
    outcome = _outcome(prompts, training, need, checks, warnings)
    return replace(outcome, metrics={**outcome.metrics, **asking.metrics()})


def _task(
    prompts: Prompts, tokenizer: Any, stops: list[int], scorer: RewardScorer, actor: ActorSettings
) -> Task:
    return Task(
        prompts=prompts.messages,
        prompt_ids=prompts.ids,
        reward=lambda asked, replies, _: scorer(asked, replies),
        decode=partial(reply_texts, tokenizer, stops, actor.thoughts),
        stop_ids=stops,
        pad_id=tokenizer.pad_token_id,
        max_new_tokens=actor.max_tokens,
    )


def paid_by(task: Task, asking: Asking, scorer: Scorer, accelerator: Accelerator) -> Task:
    """The task with a reward of all terms that are asked for; as it is without any."""
    if not asking.terms:
        return task
    once = partial(once_for_all, accelerator)

    def columns(asked: list[Prompt], replies: list[str], _: Any) -> torch.Tensor:
        return asking.columns(asked, replies, scorer, once)

    return replace(task, reward=columns, terms=asking.terms)


def _learn(
    module: ActorCritic,
    roles: Roles,
    task: Task,
    spec: StageSpec,
    settings: AssistantSettings,
    accelerator: Accelerator,
    progress: Progress,
) -> Training:
    ppo = settings.trainer_config
    states = States(Path(spec.run_folder), made_from(spec), ppo.n_checkpoints_to_keep)
    require_room(states, module)
    return train(
        module,
        roles.reference,
        task,
        ppo,
        method=METHODS[settings.improve_by],
        accelerator=accelerator,
        seed=stage_seed(settings.seed, STAGE),
        progress=progress,
        states=states,
        open_trackers=partial(
            Trackers, spec, settings.tracking, is_main=accelerator.is_main_process
        ),
    )


@dataclass(frozen=True)
class Prompts:
    """The prompts that fit, as messages and as token ids; how many didn't, or lost old turns."""

    messages: list[Prompt]
    ids: list[list[int]]
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


def check_settings(ppo: PpoSettings) -> Shares:
    """A minibatch's shares; raise SettingsError where it, or an iteration, doesn't divide."""
    ranks = processes_started()
    if ppo.rollouts_per_iteration % ranks:
        raise SettingsError(
            f"trainer_config.{ppo.rollouts_in_words} is not a multiple of compute.processes "
            f"{ranks}: choose numbers that are"
        )
    return Shares.of(
        ppo.minibatch_size, ppo.micro_batch_size, ranks, rank(), "trainer_config.batch_size"
    )


def read_prompts(
    folder: Path,
    tokenizer: Any,
    longest_prompt: int,
    settings: AssistantSettings,
    split: Split = "train",
) -> Prompts:
    """A split's prompts of at most `longest_prompt` tokens; DataError without a training one."""
    messages: list[Prompt] = []
    ids: list[list[int]] = []
    shortened = 0
    rows = read_split(folder, split)
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


def make_accelerator(
    device: str, ppo: PpoSettings, plan: DeepSpeedPlan | None = None
) -> Accelerator:
    """accelerate on `device`, over the processes started, by DeepSpeed where there is a plan.

    With bfloat16, matrix products are in bfloat16 over float32 weights; under DeepSpeed the weights
    are bfloat16 and their float32 masters stand in its optimizer.
    """
    prepare_processes(device, plan)
    shares = check_settings(ppo)
    bfloat16, plugin = wants_bfloat16(ppo.precision, device), None
    if plan is not None and plan.stage:
        # Where a minibatch ends is told with each backward. Were it told here, DeepSpeed would
        # divide the gradients by the number of micro-batches too.
        single = replace(shares, batch_size=shares.micro_batch_size * shares.ranks)
        config = deepspeed_settings(
            plan, single, bfloat16=bfloat16, max_grad_norm=ppo.max_grad_norm
        )
        plugin = DeepSpeedPlugin(hf_ds_config=config)
    return Accelerator(
        cpu=device == "cpu" and (torch.cuda.is_available() or shares.ranks > 1),
        mixed_precision="bf16" if bfloat16 else "no",
        deepspeed_plugin=plugin,
    )


def finite_loss(training: Training, ppo: PpoSettings, has_critic: bool) -> Check:
    """The blocking check `finite_loss`, with what to try."""
    rates = f"trainer_config.actor_lr ({ppo.actor_lr})"
    if has_critic:
        rates += f" or critic_lr ({ppo.critic_lr})"
    return training.guard.check(f"lower {rates}, or use precision: float32")


def write_payload(output: Path, module: ActorCritic, tokenizer: Any, training: Training) -> None:
    """The trained actor as a plain model folder, a critic beside it, curves and samples."""
    generate_plainly(module.actor, tokenizer, stop_ids(tokenizer))
    folders = (output, output / CRITIC_FOLDER)
    for model, folder in zip(module.trained, folders, strict=False):
        save_model(model, folder)
        tokenizer.save_pretrained(folder)
    training.log.write(output)


def _warnings(
    shared: bool, roles: Roles, prompts: Prompts, settings: AssistantSettings, sharded: bool
) -> list[str]:
    found = []
    if settings.policy_has_adapter and sharded:
        found.append(
            "DeepSpeed's stage 3 takes a model's weights apart: no base is shared by the models; "
            "a lower zero_stage holds it once on every GPU"
        )
    elif settings.policy_has_adapter and len(roles.sharing) > 1:
        found.append(
            f"not all models stand on one base: {roles.in_words}; for one set of weights "
            "give actor_config and reward_config the same model and peft_enable: true"
        )
    if roles.critic is not None and not shared:
        found.append(
            "the reward model reads other tokens than the actor: the critic starts from the SFT "
            "weights with a fresh head, not from the reward model"
        )
    if prompts.dropped:
        found.append(
            f"{prompts.dropped} prompts leave no room for a reply of actor_config.max_tokens "
            f"({settings.actor_config.max_tokens}) within max_sequence_length "
            f"({settings.actor_config.max_sequence_length}) and were left out"
        )
    return found


def _outcome(
    prompts: Prompts,
    training: Training,
    need: MemoryPlan,
    checks: list[Check],
    warnings: list[str],
) -> Outcome:
    return Outcome(
        rows=len(prompts.ids),
        metrics={
            "dropped_too_long": prompts.dropped,
            "iterations": training.iterations_done,
            "optimizer_steps_skipped": training.guard.skipped,
            **need.metrics(),
            **training.stopwatch.metrics(),
            **training.log.newest(),
        },
        checks=checks,
        curves=training.log.as_curves(),
        warnings=warnings,
    )
