"""Does each training stage take the memory that its plan says?

    python benchmarks/memory/stages.py                    # 24 M weights, whole and with adapters
    python benchmarks/memory/stages.py --shape smollm     # SmolLM2-135M's shape, with adapters
    python benchmarks/memory/stages.py --plain-malloc     # without mimalloc
    python benchmarks/memory/stages.py --shape smollm --load     # by two processes, at ZeRO 3

Every stage runs as the pipeline runs it, in a process of its own, on random weights; the plan
counts what the process had when it was made. Rows are all about `--length` tokens, or, as people's
are, of many lengths up to it. The plan's ratio to the peak says how far it can be trusted: over 1
it asks for more than is needed, under 1 for less.

With `--load` two processes load PPO's policy, reference, critic and reward model, each of that size
and stored as bfloat16, until DeepSpeed has its parts of the two that learn: each process the whole
of all, or its part alone. The most that a process took is told, as a share of the float32 weights.
"""

from __future__ import annotations

import argparse
import os
import random
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from transformers import LlamaForCausalLM

from benchmarks.llamas import WORDS, llama_config
from chatllama_pipeline.launch.allocator import PRELOAD
from chatllama_pipeline.launch.child import child_environment
from chatllama_pipeline.machine import own_bytes, peak_bytes
from chatllama_pipeline.models.bases.scratch import train_tokenizer
from chatllama_pipeline.models.memory.means import Means
from chatllama_pipeline.models.quiet import quiet_transformers
from chatllama_pipeline.records import Outcome, StageSpec
from chatllama_pipeline.schemas import ACTOR_SCHEMA, PREFERENCE_SCHEMA, PROMPT_SCHEMA, REWARD_SCHEMA
from chatllama_pipeline.settings import AssistantSettings
from chatllama_pipeline.settings.deepspeed_config import DeepSpeedPlan

SHAPES = ("small", "smollm")
# Mean and deviation of the logarithm of ragged lengths, as a share of the longest.
LENGTHS = (-1.0, 0.7)
# Holes grow with the first steps.
RAGGED_STEPS = 8
ROLES = ("policy", "reference", "critic", "reward")
USED = {
    "reward_model": ("reward_base", "preference_data", "reward_training_data"),
    "actor_sft": ("actor_base", "actor_training_data"),
    "actor_ppo": ("actor_sft", "reward_model", "rlhf_training_data"),
}


@dataclass(frozen=True)
class Bench:
    """What is trained, in a folder of inputs; `adapted` trains LoRA adapters in every role.

    An adapter in every linear layer, the usual choice, weighs most.
    """

    folder: Path
    length: int
    rows: int
    adapted: bool
    steps: int = 2
    plain_malloc: bool = False

    def settings(self) -> dict[str, Any]:
        section = {
            "model": "local",
            "max_sequence_length": self.length,
            "batch_size": self.rows,
            "max_steps": self.steps,
            "evaluations": 1,
            "peft_enable": self.adapted,
            "lora": {"target_modules": "all-linear"},
        }
        return {
            "actor_config": {**section, "max_tokens": self.length // 2},
            "reward_config": section,
            "critic_config": {"lora": section["lora"]},
            "trainer_config": {
                "update_timesteps": self.rows,
                "max_timesteps": self.rows,
                "num_episodes": self.steps // 2,
                "update_kl_limit": 100.0,
            },
        }

    def run(self, stage: str, **changes: dict[str, Any]) -> Outcome:
        """The outcome of one stage, its peak among the metrics; its output serves the next."""
        name = f"{stage}_{'lora' if self.adapted else 'whole'}"
        output = self.folder / name
        output.mkdir()
        settings = self.settings()
        for section, keys in changes.items():
            settings[section] = {**settings[section], **keys}
        spec = StageSpec(
            stage=stage,
            assistant="measured",
            settings=settings,
            inputs={each: str(self.input(each)) for each in USED[stage]},
            output=str(output),
            run_folder=str(self.folder / f"{name}_run"),
            result=str(self.folder / f"{name}.json"),
        )
        spec.write(self.folder / f"{name}_spec.json")
        environment = child_environment(spec.threads)
        if self.plain_malloc:
            environment.pop(PRELOAD, None)
        subprocess.run(
            [sys.executable, "-m", "chatllama_pipeline.launch.stages", f"{output}_spec.json"],
            env=environment,
            check=True,
            stdout=subprocess.DEVNULL,
        )
        return Outcome.read(Path(spec.result))

    def input(self, asset: str) -> Path:
        """A table, the base, or what an earlier stage of this bench made."""
        made = self.folder / f"{asset}_{'lora' if self.adapted else 'whole'}"
        return made if asset in USED else self.folder / asset.replace("reward_base", "actor_base")


def make_inputs(folder: Path, shape: str, length: int, rows: int, *, ragged: bool = False) -> int:
    """A random base of that shape, and tables whose rows are about `length` tokens; its weights.

    `ragged` rows are of many lengths, most of them a third of `length`, some all of it.
    """
    tokenizer = train_tokenizer([" ".join(WORDS)] * 8, 400, length)
    torch.manual_seed(0)
    model = LlamaForCausalLM(
        llama_config(
            shape,
            max_position_embeddings=length,
            bos_token_id=None,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )
    model.save_pretrained(folder / "actor_base")
    tokenizer.save_pretrained(folder / "actor_base")
    draw = random.Random(0)

    def words() -> str:
        most = length // 2 - 16
        share = draw.lognormvariate(*LENGTHS) if ragged else 1.0
        return " ".join(draw.choices(WORDS, k=max(1, min(most, round(share * most)))))

    splits = ["train"] * (16 if ragged else 2) * rows + ["validation"] * rows
    said = [
        {"prompt": [{"role": "user", "content": words()}], "source": "test", "split": split}
        for split in splits
    ]
    tables: dict[str, tuple[list[dict[str, Any]], pa.Schema]] = {
        "actor_training_data": ([{**r, "completion": words()} for r in said], ACTOR_SCHEMA),
        "reward_training_data": (
            [{**r, "completion": words(), "score": float(n % 6)} for n, r in enumerate(said)],
            REWARD_SCHEMA,
        ),
        "preference_data": (
            [
                {**r, "chosen": words(), "rejected": words(), "strength": 1.0, "domain": ""}
                for r in said
            ],
            PREFERENCE_SCHEMA,
        ),
        "rlhf_training_data": (said, PROMPT_SCHEMA),
    }
    for name, (listed, schema) in tables.items():
        (folder / name).mkdir()
        pq.write_table(pa.Table.from_pylist(listed, schema=schema), folder / name / "data.parquet")
    return sum(weight.numel() for weight in model.parameters())


def measure(place: Path, options: argparse.Namespace, *, ragged: bool) -> None:
    """A line for each stage, whole and with adapters, on rows of one length or of many."""
    weights = make_inputs(place, options.shape, options.length, options.rows, ragged=ragged)
    lengths = "up to " if ragged else ""
    print(f"{weights / 1e6:.0f} M weights, {options.rows} rows of {lengths}{options.length} tokens")
    steps = RAGGED_STEPS if ragged else 2
    for adapted in (False, True) if options.shape == "small" else (True,):
        bench = Bench(place, options.length, options.rows, adapted, steps, options.plain_malloc)
        for stage in options.stages:
            before = os.times().children_user
            found = bench.run(stage).metrics
            seconds = os.times().children_user - before
            planned, peak = found["planned_gib"], found["peak_gib"]
            print(
                f"{stage:13} {'LoRA' if adapted else 'whole':6} planned {planned:.2f} GiB "
                f"(most in {found['planned_peak_in']}), peak {peak:.2f} GiB, "
                f"ratio {planned / peak:.2f}, {seconds:.0f} CPU s",
                flush=True,
            )


def load_in_two(place: Path, shape: str) -> None:
    """A line for each process and way of loading."""
    weights = make_inputs(place, shape, 64, 1)
    base = place / "actor_base"
    LlamaForCausalLM.from_pretrained(base, dtype=torch.bfloat16).save_pretrained(base)
    print(f"{weights / 1e6:.0f} M weights, two processes", flush=True)
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    for how in ("whole", "parts"):
        subprocess.run(
            [*launch, __file__, "--loads", str(base), how],
            env={**child_environment(1), "DS_ACCELERATOR": "cpu"},
            check=True,
            stderr=subprocess.DEVNULL,
        )


def load_as_one_of_two(base: Path, how: str) -> None:
    """In a process of torchrun's: load the models by PPO's own means, and tell the peak."""
    import deepspeed

    from chatllama_pipeline.models.memory.sizes import model_size
    from chatllama_pipeline.training.distributed import sharing
    from chatllama_pipeline.training.ppo.model import ActorCritic
    from chatllama_pipeline.training.ppo.roles import load_roles

    zero = {"zero_optimization": {"stage": 3}}
    shared = sharing(Means(processes=2, here=2, deepspeed=DeepSpeedPlan(zero)))
    before = own_bytes("cpu")
    Path("/proc/self/clear_refs").write_text("5")  # the peak is counted anew
    roles = load_roles(
        base, base, base, AssistantSettings(), 0, "cpu", False, shared if how == "parts" else None
    )
    module = ActorCritic(roles.policy, roles.critic)
    deepspeed.initialize(model=module, config={"train_micro_batch_size_per_gpu": 1, **zero})
    weights = 4 * len(ROLES) * model_size(base).weights
    shares = [(size - before) / weights for size in (peak_bytes("cpu"), own_bytes("cpu"))]
    told = "took at most {:.2f} of the weights and kept {:.2f}".format(*shares)
    print(f"{how}: process {os.environ['RANK']} {told}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shape", choices=SHAPES, default="small")
    parser.add_argument("--length", type=int, default=256)
    parser.add_argument("--rows", type=int, default=4)
    parser.add_argument("--stages", nargs="+", choices=USED, default=list(USED))
    parser.add_argument("--plain-malloc", action="store_true", help="what mimalloc saves")
    parser.add_argument("--load", action="store_true", help="what loading takes at ZeRO 3")
    parser.add_argument("--loads", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    quiet_transformers()
    if options.loads:
        load_as_one_of_two(Path(options.loads[0]), options.loads[1])
        return
    if options.load:
        with tempfile.TemporaryDirectory() as place:
            load_in_two(Path(place), options.shape)
        return
    for ragged in (False, True):
        with tempfile.TemporaryDirectory() as place:
            measure(Path(place), options, ragged=ragged)


if __name__ == "__main__":
    main()
