"""The RL stage: the SFT actor learns by PPO, RLOO or GRPO to earn the reward model's scores."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator, DeepSpeedPlugin, PartialState
from safetensors.torch import save_file
from transformers.integrations import unset_hf_deepspeed_config

from chatllama_pipeline.models.adapters.lora import save_model, trained_state
from chatllama_pipeline.models.chat.replies import reply_texts
from chatllama_pipeline.models.chat.template import stop_ids
from chatllama_pipeline.models.generation import end_ids, generate_plainly
from chatllama_pipeline.models.heads import RewardScorer
from chatllama_pipeline.models.memory.efficiency import make_efficient
from chatllama_pipeline.models.memory.plan import MemoryPlan
from chatllama_pipeline.models.quiet import quiet_transformers
from chatllama_pipeline.models.sharding.parts import whole
from chatllama_pipeline.progress import Progress
from chatllama_pipeline.records import Check, Outcome, StageSpec
from chatllama_pipeline.settings import ActorSettings, AssistantSettings, PpoSettings
from chatllama_pipeline.training.distributed import (
    by_one,
    deepspeed_settings,
    once_for_all,
    prepare_processes,
    rank,
    require_deepspeed,
    sharing,
)
from chatllama_pipeline.training.plan import TrainingPlan
from chatllama_pipeline.training.ppo.collect import Task
from chatllama_pipeline.training.ppo.loop import Training, train
from chatllama_pipeline.training.ppo.methods import METHODS
from chatllama_pipeline.training.ppo.model import ActorCritic, ValueHead
from chatllama_pipeline.training.ppo.preparation import Prompts, held_out_prompts, prepare
from chatllama_pipeline.training.ppo.roles import Roles, load_roles
from chatllama_pipeline.training.resume.snapshot import require_room
from chatllama_pipeline.training.resume.state import States, made_from
from chatllama_pipeline.training.terms.asking import (
    Asking,
    Scorer,
    open_of_stage,
    paid_for,
    terms_of,
)
from chatllama_pipeline.training.terms.cheats import Paid, cheats_check, try_reward
from chatllama_pipeline.training.terms.precision import in_bfloat16
from chatllama_pipeline.training.trackers import Trackers
from chatllama_pipeline.training.watching.judges import Gate, open_gate
from chatllama_pipeline.training.watching.watch import Watch, interval

CRITIC_FOLDER, HEAD_FILE = "critic", "head.safetensors"
_NOTHING_HELD_OUT = "rlhf_training_data holds no validation prompt as short as those learned from"


def run(spec: StageSpec, progress: Progress) -> Outcome:
    """Train the actor; writes its folder, PPO's `critic/`, `curves.json` and `samples.jsonl`.

    Raises SettingsError for settings that contradict each other, DataError where no prompt fits,
    CheckError where memory would not do. Too many non-finite losses give a failed check and no
    payload.
    """
    quiet_transformers()
    settings = AssistantSettings.of_stage(spec)
    # A function that doesn't import, or a judge without a key, is told before models are loaded.
    with open_of_stage(spec, settings) as asking, open_gate(spec, settings, rank() == 0) as gate:
        return _improve(spec, settings, asking, gate, progress)


def _improve(
    spec: StageSpec, settings: AssistantSettings, asking: Asking, gate: Gate, progress: Progress
) -> Outcome:
    plan, prompts = prepare(spec, settings, progress)
    ppo, tokenizer = plan.settings.trainer_config, plan.tokenizer
    accelerator = make_accelerator(plan)
    roles = load_roles(
        plan.folders["policy"], plan.folders["reward"], plan.folders.get("critic"), plan.settings,
        plan.seed, accelerator.device, plan.means.zero_stage < 3, sharing(plan.means),
    )  # fmt: skip
    if any(len(group) > 1 for group in roles.sharing):
        progress.say(roles.in_words)
    module = ActorCritic(roles.policy, roles.critic)
    for model in module.models:
        make_efficient(model, ppo, plan.section_name, plan.memory.checkpointing)
    reward = RewardScorer(plan.folders["reward"], model=roles.reward)
    rounds = plan.means.bfloat16
    with whole(roles.reward.parameters()):
        scorer = in_bfloat16(reward, prompts.messages, progress) if rounds else reward
    stops = end_ids(stop_ids(tokenizer), roles.policy)
    task = _task(prompts, tokenizer, stops, scorer, settings.actor_config)
    task = replace(paid_by(task, asking, scorer, accelerator), scored_by=roles.reward)
    paid = partial(asking.paid, scorer=scorer)
    with task.paying():
        cheats = by_one(
            accelerator, lambda: try_reward(spec.inputs, settings, tokenizer, paid, progress)
        )
    watch = _watch(plan, prompts, gate, paid, progress)
    training = _learn(module, roles, task, plan, accelerator, progress, watch)
    if training.guard.passed:
        with training.whole():
            if accelerator.is_main_process:
                output = Path(spec.output)
                write_payload(output, module, tokenizer, training)
                seen = watch.report(training.watched, training.scales) if watch else None
                if cheats is not None:
                    cheats.write(output)
                if seen is not None:
                    seen.write(output)
    why_not = gate.why_not or (None if watch else _NOTHING_HELD_OUT)
    checks = [
        plan.fits,
        finite_loss(training, ppo, roles.critic is not None),
        training.collapse.check(ppo.collapse == "stop"),
        cheats_check(cheats, settings.checks.max_cheat_wins),
        training.watched.check(gate.name, why_not),
    ]
    warnings = [*plan.before.warnings, *_warnings(plan, roles, prompts)]
    warnings += [*plan.warnings, *training.warnings, *training.log.warnings()]
    warnings += [*asking.warnings(), *gate.warnings()]
    outcome = _outcome(prompts, training, plan.memory, checks, warnings)
    more = {**(cheats.metrics() if cheats else {}), **paid_for(asking.judge, gate.judge)}
    return replace(outcome, metrics={**outcome.metrics, **more})


def _watch(
    plan: TrainingPlan, trained: Prompts, gate: Gate, paid: Paid, progress: Progress
) -> Watch | None:
    """The watch of the gate's judge, where it may be asked and prompts are held out for it."""
    ppo, actor = plan.settings.trainer_config, plan.settings.actor_config
    if gate.why_not is not None:
        progress.say(f"the gate's judge doesn't look on: {gate.why_not}")
        return None
    # Longer ones may not fit into memory, which was planned for those that are learned from.
    table, most = Path(plan.spec.inputs["rlhf_training_data"]), ppo.watch_prompts
    held_out = held_out_prompts(table, plan.tokenizer, trained.longest, most)
    if not held_out.ids:
        progress.say(f"the gate's judge doesn't look on: {_NOTHING_HELD_OUT}")
        return None
    watch = Watch(
        prompts=list(held_out.messages),
        ids=list(held_out.ids),
        judge=gate.judge,
        name=gate.name,
        paid=paid,
        terms=terms_of(plan.settings.rewards),
        every=interval(ppo, len(held_out.ids)),
        falls=ppo.watch_falls,
        missing_eos_penalty=ppo.missing_eos_penalty,
    )
    progress.say(
        f"{gate.name} looks at the replies to {len(held_out.ids)} held-out prompts before training "
        f"and after every {watch.every} iterations; the policy that it likes best is published"
    )
    for line in watch.forecast(ppo.iterations, actor.max_tokens, plan.settings.llm.max_usd):
        progress.say(line)
    return watch


def _task(
    prompts: Prompts, tokenizer: Any, stops: list[int], scorer: Scorer, actor: ActorSettings
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
    """The task with a reward of all terms that are asked for."""
    once = partial(once_for_all, accelerator)
    alone = accelerator.num_processes == 1
    return replace(
        task,
        reward=lambda asked, replies, _: asking.paid(asked, replies, scorer, once),
        terms=asking.terms,
        begin=partial(asking.begin, judge=alone) if asking.terms else task.begin,
    )


def _learn(
    module: ActorCritic,
    roles: Roles,
    task: Task,
    plan: TrainingPlan,
    accelerator: Accelerator,
    progress: Progress,
    watch: Watch | None,
) -> Training:
    spec, settings, ppo = plan.spec, plan.settings, plan.settings.trainer_config
    states = States(Path(spec.run_folder), made_from(spec), ppo.n_checkpoints_to_keep)
    require_room(states, module)
    return train(
        module,
        roles.reference,
        task,
        ppo,
        method=METHODS[settings.improve_by],
        accelerator=accelerator,
        seed=plan.seed,
        progress=progress,
        states=states,
        open_trackers=partial(
            Trackers, spec, settings.tracking, is_main=accelerator.is_main_process
        ),
        watch=watch,
    )


def make_accelerator(plan: TrainingPlan) -> Accelerator:
    """accelerate on the plan's device, over its processes, by DeepSpeed where it has a part.

    With bfloat16, matrix products are in bfloat16 over float32 weights; under DeepSpeed the weights
    are bfloat16 and their float32 masters stand in its optimizer.
    """
    means, shares = plan.means, plan.shares
    prepare_processes(means)
    # Where a minibatch ends is told with each backward. Were it told here, DeepSpeed would divide
    # the gradients by the number of micro-batches too.
    single = replace(shares, batch_size=shares.micro_batch_size * shares.ranks)
    config = deepspeed_settings(means, single, plan.section.max_grad_norm)
    on_cpu = means.device == "cpu" and (torch.cuda.is_available() or shares.ranks > 1)
    if on_cpu:
        PartialState(cpu=True)
    accelerator = Accelerator(
        # Told of a CPU here too, accelerate would do without DeepSpeed.
        cpu=on_cpu and not config,
        mixed_precision="bf16" if means.bfloat16 else "no",
        deepspeed_plugin=DeepSpeedPlugin(hf_ds_config=config) if config else None,
    )
    # By the plugin transformers would share out whatever it loads, though it be wanted whole.
    unset_hf_deepspeed_config()
    require_deepspeed(accelerator, means)
    return accelerator


def finite_loss(training: Training, ppo: PpoSettings, has_critic: bool) -> Check:
    """The blocking check `finite_loss`, with what to try."""
    rates = f"trainer_config.actor_lr ({ppo.actor_lr})"
    if has_critic:
        rates += f" or critic_lr ({ppo.critic_lr})"
    return training.guard.check(f"lower {rates}, or use precision: float32")


def write_payload(output: Path, module: ActorCritic, tokenizer: Any, training: Training) -> None:
    """The trained actor as a plain model folder, a critic beside it, curves and samples.

    Of a critic that is a head on the actor the head alone is written.
    """
    generate_plainly(module.actor, tokenizer, stop_ids(tokenizer))
    folders = (output, output / CRITIC_FOLDER)
    for model, folder in zip(module.models, folders, strict=False):
        save_model(model, folder)
        tokenizer.save_pretrained(folder)
    if isinstance(module.critic, ValueHead):
        (output / CRITIC_FOLDER).mkdir()
        save_file(trained_state(module.critic), output / CRITIC_FOLDER / HEAD_FILE)
    training.log.write(output)


def _warnings(plan: TrainingPlan, roles: Roles, prompts: Prompts) -> list[str]:
    found, settings, folders = [], plan.settings, plan.folders
    if settings.policy_has_adapter and plan.means.zero_stage == 3:
        found.append(
            "DeepSpeed's stage 3 takes a model's weights apart: no base is shared by the models; "
            "a lower zero_stage holds it once on every GPU"
        )
    elif settings.policy_has_adapter and len(roles.sharing) > 1:
        found.append(
            f"not all models stand on one base: {roles.in_words}; for one set of weights "
            "give actor_config and reward_config the same model and peft_enable: true"
        )
    if "critic" in folders and folders["critic"] != folders["reward"]:
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
            **training.watched.metrics(),
        },
        checks=checks,
        curves=training.log.as_curves(),
        warnings=warnings,
    )
