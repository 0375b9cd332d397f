"""trl's side: `python -m benchmarks.against_trl.theirs CASE`, where trl 1.12.0 can be imported.

The trap of its settings: `per_device_train_batch_size * gradient_accumulation_steps` rows are the
whole iteration, of which `num_mini_batches` are cut. accelerate counts its steps in micro-batches
by the same gradient_accumulation_steps, and steps at every one of them while the last batch of the
prompts is out: so that each minibatch is one step, as on our side, its count is set afterwards,
and the prompts last for longer than the measurement.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.machinery
import importlib.util
import sys
import tempfile
from types import ModuleType
from typing import Any

import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import (
    LogitsProcessor,
    LogitsProcessorList,
    PreTrainedTokenizerFast,
    PrinterCallback,
    TrainerCallback,
)

from benchmarks.against_trl.case import (
    ACTOR_LR,
    KL_BETA,
    STOP,
    TEMPERATURE,
    Case,
    Models,
    models,
    prompt_rows,
)
from benchmarks.against_trl.turns import OverError, Turns
from chatllama_pipeline.models.quiet import quiet_transformers

# As good as endless: the parent ends it.
ITERATIONS = 1000
# trl imports them at its top; its PPO, given a list of prompts, calls nothing of theirs.
NEVER_CALLED = ("datasets", "pandas", "pyarrow", "pyarrow.types", "pyarrow.compute")


class Watch(TrainerCallback):
    """Hears of every iteration's end."""

    def __init__(self, turns: Turns) -> None:
        self.turns = turns

    def on_train_begin(self, *args: Any, **more: Any) -> None:
        self.turns.begin()

    def on_step_end(self, *args: Any, **more: Any) -> None:
        self.turns.over()


class EndHalfEarly(LogitsProcessor):
    """Every other row takes the stop token at its column, and no row takes it elsewhere."""

    def __init__(self, case: Case) -> None:
        self.column = case.prompt_tokens + case.early_column

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> Any:
        scores[:, STOP] = -torch.inf
        if input_ids.shape[1] == self.column:
            scores[1::2] = -torch.inf
            scores[1::2, STOP] = 0.0
        return scores


def main() -> None:
    case = Case.from_json(sys.argv[1])
    quiet_transformers()
    for name in NEVER_CALLED:
        stand_in(name)
    ppo = importlib.import_module("trl.experimental.ppo.ppo_trainer")
    config = importlib.import_module("trl.experimental.ppo.ppo_config")
    turns = Turns(case)
    found = models(case)
    if case.bfloat16:
        for model in vars(found).values():
            model.to(torch.bfloat16)
    if case.half_early:
        end_half_early(case, found.actor)
    with tempfile.TemporaryDirectory() as folder, contextlib.suppress(OverError):
        trainer = ppo.PPOTrainer(
            args=config.PPOConfig(**settings(case, folder)),
            processing_class=tokenizer(case),
            model=found.actor,
            ref_model=found.reference,
            reward_model=found.reward,
            value_model=found.critic,
            train_dataset=[{"input_ids": row} for row in prompt_rows(case)] * (ITERATIONS + 1),
            callbacks=[Watch(turns)],
        )
        trainer.remove_callback(PrinterCallback)
        trainer.accelerator.gradient_accumulation_steps = case.minibatch // case.micro
        watch_phases(ppo, found, turns)
        trainer.train()


def settings(case: Case, folder: str) -> dict[str, Any]:
    """PPOConfig's arguments. Every weight is of one type: nothing is cast on the way."""
    micro = case.prompts if case.micro == case.minibatch else case.micro
    return {
        "output_dir": folder,
        "per_device_train_batch_size": micro,
        "gradient_accumulation_steps": case.prompts // micro,
        "num_mini_batches": case.prompts // case.minibatch,
        "num_ppo_epochs": case.epochs,
        "total_episodes": case.prompts * ITERATIONS,
        "local_rollout_forward_batch_size": case.prompts,
        "num_sample_generations": 0,
        "response_length": case.new_tokens,
        "stop_token_id": STOP if case.half_early else None,
        "temperature": TEMPERATURE,
        "kl_coef": KL_BETA,
        "learning_rate": ACTOR_LR,
        "gradient_checkpointing": False,
        "bf16": False,
        "use_cpu": case.device == "cpu",
        "report_to": "none",
        "save_strategy": "no",
        "disable_tqdm": True,
    }


def watch_phases(ppo: Any, found: Models, turns: Turns) -> None:
    """Measure what trl calls of its own; what it does with a gradient is the update's."""

    def collected(*args: Any) -> str | None:
        return None if torch.is_grad_enabled() else "score"

    def rewarded(model: Any, rows: torch.Tensor, pad_id: int, context: int) -> str:
        if model is not found.reward:
            return "score"
        turns.tokens += int((rows[:, context:] != pad_id).sum())
        return "reward"

    turns.timed(ppo, "batch_generation", "decode")
    turns.timed(ppo, "forward", collected)
    turns.timed(ppo, "selective_log_softmax", collected)
    turns.timed(ppo, "get_reward", rewarded)


def tokenizer(case: Case) -> PreTrainedTokenizerFast:
    """Ids alone. trl takes every pad for padding: it stands outside of what can be drawn."""
    words = {str(token): token for token in range(case.actor.vocabulary)}
    pad = {"[PAD]": case.actor.vocabulary}
    whole = Tokenizer(WordLevel(words | pad, unk_token="[PAD]"))
    return PreTrainedTokenizerFast(
        tokenizer_object=whole, pad_token="[PAD]", eos_token=str(STOP), padding_side="left"
    )


def end_half_early(case: Case, actor: Any) -> None:
    generate, early = actor.generate, EndHalfEarly(case)
    actor.generation_config.pad_token_id = STOP
    actor.generate = lambda **more: generate(**more, logits_processor=LogitsProcessorList([early]))


def stand_in(name: str) -> None:
    """A module of empty classes where a machine lacks what trl imports and never calls here."""
    with contextlib.suppress(ModuleNotFoundError):
        if name in sys.modules or importlib.util.find_spec(name):
            return
    module = ModuleType(name)
    module.__spec__ = importlib.machinery.ModuleSpec(name, None)
    module.__path__ = []
    module.__getattr__ = lambda wanted: type(wanted, (), {})  # type: ignore[method-assign]
    sys.modules[name] = module


if __name__ == "__main__":
    main()
