"""Memory and speed of the trainings at 25 M parameters; what each way to a better actor reaches.

    python benchmarks/train.py [memory] [speed] [large] [--layers 6] [--steps 6] [--repeats 3]
    python benchmarks/train.py methods [--seeds 0 1 2] [--methods ppo "ppo, shared trunk" dpo]

`memory`: the peak of PPO with four full models and with LoRA on one base, 8 prompts of 64 tokens
and 64 sampled ones, optimizer included; each in a process of its own, what stood in memory after
the imports subtracted. `speed`: SFT and reward training in turns with a bare torch loop of the same
maths; on busy machines trust the ratio. `large`: an SFT step in bfloat16 of a model of OPT-1.3B's
shape with random weights; needs a GPU. Without a name, these three. `methods`: the quickstart on
each seed, its actor improved in each way from the same data, SFT actor and reward model: seconds of
the child that improves it, the rubric's mean, wins over SFT, KL in nats a reply, the gate's word.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import argparse
import json
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM, OPTConfig, OPTForCausalLM

from benchmarks.memory.ppo import PROMPT, QUIET, REPLY, ROWS, compare_memory
from chatllama_pipeline.cli.dagster_runs import dagster_command, dagster_environment
from chatllama_pipeline.models.adapters.lora import add_adapter
from chatllama_pipeline.models.bases.scratch import train_tokenizer
from chatllama_pipeline.models.chat.template import Example
from chatllama_pipeline.models.heads import load_actor, load_reward
from chatllama_pipeline.models.memory.efficiency import checkpoint_activations
from chatllama_pipeline.models.quiet import quiet_transformers
from chatllama_pipeline.records import StageSpec
from chatllama_pipeline.settings import AssistantSettings, LoraSettings
from chatllama_pipeline.store.versions import Store
from chatllama_pipeline.training.course import WEIGHT, Task
from chatllama_pipeline.training.plan import begin, decide
from chatllama_pipeline.training.reward import stage as reward_stage
from chatllama_pipeline.training.reward.items import Pair
from chatllama_pipeline.training.sft import stage as sft_stage
from chatllama_pipeline.training.trainer import train

GIGA = 1e9
LEARNING_RATE = 1e-5
NO_FIGURE = ("none", False)
PARTS = ("memory", "speed", "large")
METHODS_PART = "methods"
# As many rollouts an iteration as the quickstart's PPO has; its lengths of training stand else.
_GROUPED = {"trainer_config.update_timesteps": 16, "trainer_config.max_timesteps": 16}
_SUPERVISED = {"batch_size": 32, "lr": 1e-4, "epochs": 2}
# Each way to a better actor: what it changes of the quickstart's settings.
WAYS: dict[str, dict[str, Any]] = {
    "ppo": {},
    "ppo, shared trunk": {"critic_config.trunk": "shared"},
    **{name: {"improve_by": name, **_GROUPED} for name in ("rloo", "grpo")},
    **{
        name: {"improve_by": name}
        | {f"{name}_config.{key}": value for key, value in _SUPERVISED.items()}
        for name in ("dpo", "kto", "best_of_n")
    },
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parts = (*PARTS, METHODS_PART)
    parser.add_argument("parts", nargs="*", help=f"of {', '.join(parts)}; the first 3 without")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--methods", nargs="+", choices=WAYS, default=list(WAYS))
    parser.add_argument("--hidden", type=int, default=512)
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    quiet_transformers()
    unknown = set(options.parts) - set(parts)
    if unknown:
        parser.error(f"unknown part {', '.join(unknown)}: use {', '.join(parts)}")
    chosen = options.parts or PARTS
    if METHODS_PART in chosen:
        compare_methods(options.seeds, options.methods)
    if not set(chosen) & set(PARTS):
        return
    with tempfile.TemporaryDirectory(prefix="chatllama_benchmark_") as folder:
        base = Path(folder) / "base"
        weights = make_base(base, options.hidden, options.layers)
        print(f"{weights / 1e6:.1f} M parameters, {torch.get_num_threads()} threads")
        if "memory" in chosen:
            compare_memory(Path(folder), base, options.repeats)
        if "speed" in chosen:
            peak = measured_peak("cpu", torch.float32)
            print(f"measured peak of the device, float32: {peak / GIGA:.0f} GFLOP/s")
            for stage in ("actor_sft", "reward_model"):
                compare_speed(stage, base, Path(folder), options.steps, options.repeats, peak)
        if "large" in chosen:
            time_large_model()


def make_base(folder: Path, hidden: int, layers: int) -> int:
    """Write a Llama of random weights; returns their number (25 M at the default sizes)."""
    torch.manual_seed(0)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=8192,
            hidden_size=hidden,
            intermediate_size=3 * hidden,
            num_hidden_layers=layers,
            num_attention_heads=8,
            max_position_embeddings=PROMPT + REPLY,
            tie_word_embeddings=True,
            bos_token_id=None,
            eos_token_id=1,
            pad_token_id=0,
        )
    )
    model.save_pretrained(folder)
    train_tokenizer(["alpha bravo charlie"], 400, PROMPT + REPLY).save_pretrained(folder)
    return int(model.num_parameters())


# Speed


def compare_speed(
    stage: str, base: Path, folder: Path, steps: int, repeats: int, peak: float
) -> None:
    """Print seconds a step of a stage's training and of a bare loop, run in turns."""
    model, task = sft_task(base) if stage == "actor_sft" else reward_task(base)
    spec = StageSpec(
        stage=stage,
        assistant="benchmark",
        settings=_settings(steps),
        inputs={},
        output=str(folder / "output"),
        run_folder=str(folder / stage),
        result=str(folder / "result.json"),
    )
    role = "actor" if stage == "actor_sft" else "reward"
    known = begin(spec, AssistantSettings.of_stage(spec), base)
    plan = decide(known, {role: base}, PROMPT + REPLY, len(task.rows))
    contestants: dict[str, Callable[[], float]] = {
        "bare loop": partial(bare_loop, model, task, steps),
        "ours": lambda: train(model, task, plan, QUIET).seconds,
    }
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    for run in contestants.values():
        run()  # the first is slower, whoever it is
    for _ in range(repeats):
        for name, run in contestants.items():
            seconds[name].append(run() / steps)
    medians = {name: statistics.median(found) for name, found in seconds.items()}
    weights = sum(p.numel() for p in model.parameters())
    tokens = sum(len(row) for row in _ids(task.rows[:ROWS]))
    for name, step in medians.items():
        # Forward 2, backward 4 operations per weight and token.
        share = 6 * weights * tokens / step / peak
        print(
            f"{stage}, {name:9s} {step:7.3f} s a step {tokens / step:8.0f} tokens/s "
            f"{100 * share:5.1f} % of the peak"
        )
    print(f"{stage}, ours / bare loop {medians['ours'] / medians['bare loop']:.3f}")


def _settings(steps: int) -> dict[str, Any]:
    section = {
        "batch_size": ROWS,
        "lr": LEARNING_RATE,
        "max_steps": steps,
        "evaluations": 1,
        "checkpoint_steps": 10**6,
        "checkpoint_seconds": 10**6,
    }
    return {"actor_config": section, "reward_config": section}


def sft_task(base: Path) -> tuple[Any, Task]:
    rows = [Example(ids, PROMPT) for ids in random_rows(4 * ROWS)]
    collate = partial(sft_stage.collate_completions, pad_id=0)
    return load_actor(base, torch.float32), Task(
        rows, collate, sft_stage.completion_loss_sum, lambda model: {}, NO_FIGURE
    )


def reward_task(base: Path) -> tuple[Any, Task]:
    chosen, rejected = random_rows(2 * ROWS), random_rows(2 * ROWS)[::-1]
    rows: list[Any] = [
        Pair(Example(left, PROMPT), Example(right, PROMPT), 0.0)
        for left, right in zip(chosen, rejected, strict=True)
    ]
    torch.manual_seed(0)
    model = load_reward(base, torch.float32)
    loss = partial(reward_stage.reward_loss_sum, centering_weight=0.01)
    collate = partial(reward_stage.collate_items, model, pad_id=0)
    return model, Task(rows, collate, loss, lambda model: {}, NO_FIGURE)


def random_rows(count: int) -> list[list[int]]:
    draw = torch.Generator().manual_seed(0)
    return torch.randint(2, 8192, (count, PROMPT + REPLY), generator=draw).tolist()  # type: ignore[no-any-return]


def _ids(rows: list[Any]) -> list[list[int]]:
    if isinstance(rows[0], Example):
        return [row.ids for row in rows]
    return [example.ids for row in rows for example in (row.chosen, row.rejected)]


def bare_loop(model: Any, task: Task, steps: int) -> float:
    """Seconds of `steps` steps of AdamW on the same loss, clipping and schedule included."""
    model.train()
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=LEARNING_RATE, weight_decay=0.0, fused=True
    )
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    started = time.perf_counter()
    order = torch.randperm(len(task.rows)).tolist()
    for step in range(steps):
        start = step * ROWS % len(order)
        batch = task.collate([task.rows[row] for row in order[start : start + ROWS]])
        weight = batch.pop(WEIGHT)
        loss = task.loss_sum(model, batch) / weight
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        loss.item()
    return time.perf_counter() - started


def measured_peak(device: str, dtype: torch.dtype) -> float:
    """Floating-point operations a second of a large matrix product, the best of five."""
    size = 8192 if device == "cuda" else 2048
    left, right = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    best = 0.0
    for _ in range(6):
        started = time.perf_counter()
        product = left @ right
        product[0, 0].item()
        best = max(best, 2 * size**3 / (time.perf_counter() - started))
    return best


# A large model


def time_large_model(rows: int = 8, tokens: int = 512, steps: int = 5) -> None:
    """Print tokens/s, share of the peak and memory of bfloat16 SFT steps, whole and with LoRA."""
    if not torch.cuda.is_available():
        print("large: no GPU here, skipped")
        return
    peak = measured_peak("cuda", torch.bfloat16)
    print(f"{torch.cuda.get_device_name()}, bfloat16: {peak / 1e12:.0f} TFLOP/s measured")
    for adapted in (False, True):
        torch.manual_seed(0)
        model = OPTForCausalLM(OPTConfig(hidden_size=2048, num_hidden_layers=24, ffn_dim=8192,
            num_attention_heads=32, word_embed_proj_dim=2048, dropout=0.0)).cuda()  # fmt: skip
        weights = int(model.num_parameters())
        if adapted:
            add_adapter(model, LoraSettings(), "actor_config", "", seed=0)
        checkpoint_activations(model, "actor_config")
        trained = [p for p in model.parameters() if p.requires_grad]
        optimizer = torch.optim.AdamW(trained, lr=LEARNING_RATE, fused=True)
        ids = torch.randint(4, 50272, (rows, tokens), device="cuda")
        torch.cuda.reset_peak_memory_stats()
        seconds = []
        for _ in range(steps):
            torch.cuda.synchronize()
            started = time.perf_counter()
            with torch.autocast("cuda", torch.bfloat16):
                loss = model(input_ids=ids, labels=ids, use_cache=False).loss
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            torch.cuda.synchronize()
            seconds.append(time.perf_counter() - started)
        step = statistics.median(seconds[1:])
        # A frozen weight has no gradient of its own: 4 operations a token in the place of 6.
        done = (4 if adapted else 6) * weights * rows * tokens
        print(
            f"OPT-1.3B's shape, {'LoRA' if adapted else 'whole'}: {rows * tokens / step:.0f} "
            f"tokens/s, {100 * done / step / peak:.1f} % of the peak, "
            f"{torch.cuda.max_memory_allocated() / 2**30:.1f} GiB"
        )
        del model, optimizer, trained, loss


# Ways to a better actor


def compare_methods(seeds: list[int], ways: list[str]) -> None:
    """Print a line for each way on each seed, and one of each way's medians."""
    told: dict[str, list[dict[str, float]]] = {}
    for seed in seeds:
        with tempfile.TemporaryDirectory(prefix="chatllama_benchmark_") as folder:
            for way in ways:
                reached = improved(Path(folder), {"seed": seed, **WAYS[way]})
                for name, figures in zip(("sft", way), reached, strict=True):
                    if name != "sft" or way == ways[0]:
                        told.setdefault(name, []).append(figures)
                        print(f"seed {seed}, {_in_words(name, figures)}", flush=True)
    for name, found in told.items():
        middle = {key: statistics.median(each[key] for each in found) for key in found[0]}
        released = sum(each["released"] for each in found)
        print(f"median, {_in_words(name, middle)} ({released:.0f} of {len(found)} released)")


def improved(folder: Path, overrides: dict[str, Any]) -> tuple[dict[str, float], dict[str, float]]:
    """What SFT and the improved actor cost and reached; what stands in the store is not remade."""
    places = {name: str(folder / name) for name in ("CHATLLAMA_STORE", "DAGSTER_HOME")}
    for place in places.values():
        Path(place).mkdir(exist_ok=True)
    options = {"overrides": overrides, "force": [], "promote": True, "take_over": False}
    subprocess.run(
        dagster_command("quickstart", "*evaluation", options),
        env={**dagster_environment(), **places},
        stderr=subprocess.DEVNULL,
        check=True,
    )
    store = Store(Path(places["CHATLLAMA_STORE"]))
    evaluation = store.read("evaluation", "quickstart").path / "evaluation.json"
    found = json.loads(evaluation.read_text())

    def of(stage: str, wins: float, kl: float, released: bool) -> dict[str, float]:
        seconds = float(store.read(stage, "quickstart").manifest.metrics["child_seconds"])
        rubric = float(found[stage]["rubric_score"])
        return {"seconds": seconds, "rubric": rubric, "wins": wins, "kl": kl, "released": released}

    return (
        of("actor_sft", wins=0.5, kl=0.0, released=False),
        of("actor_ppo", found["win_rate"], found["kl"], found["released"]),
    )


def _in_words(name: str, figures: dict[str, float]) -> str:
    return (
        f"{name:18s}{figures['seconds']:7.1f} s, rubric {figures['rubric']:.3f}, wins "
        f"{figures['wins']:.3f}, KL {figures['kl']:.2f}, "
        f"{'released' if figures['released'] > 0.5 else 'held back'}"
    )


if __name__ == "__main__":
    main()
