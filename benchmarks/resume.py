"""Kill each training at random moments and run it again: does it end in the same bytes?

    python benchmarks/resume.py          # 20 kills of each stage, by one process and by two
    python benchmarks/resume.py --stages actor_ppo --processes 2 --zero-stage 3 --kills 5
    python benchmarks/resume.py --stages actor_ppo --methods rloo grpo dpo kto best_of_n --kills 5

A training is first run to its end. Then it is started again and killed by SIGKILL at a moment drawn
from that run's length (imports, steps, saves and the writing of the payload alike), over and over,
continued each time from what it left, until it ends; a new one is begun until enough kills have
struck. Every file of each payload must have the hash of the uninterrupted run's.
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from transformers import AutoTokenizer

from chatllama_pipeline.launch import shim
from chatllama_pipeline.launch.child import child_environment
from chatllama_pipeline.models.bases.scratch import ScratchSize, make_scratch_model
from chatllama_pipeline.models.heads import load_reward
from chatllama_pipeline.records import TABLE_FILE, THUMBS_FILE, StageSpec
from chatllama_pipeline.schemas import (
    ACTOR_SCHEMA,
    PREFERENCE_SCHEMA,
    PROMPT_SCHEMA,
    REWARD_SCHEMA,
    THUMB_SCHEMA,
)

STAGES = ("reward_model", "actor_sft", "actor_ppo")
FROM_ROWS = ("dpo", "kto")
METHODS = ("ppo", "rloo", "grpo", *FROM_ROWS, "best_of_n")
WORDS = ["alpha", "bravo", "charlie", "delta", "echo", "foxtrot", "golf", "hotel", "india"]
# Steps enough that most of a run's time is training, and saves at odd ones.
SUPERVISED = {
    "batch_size": 8,
    "micro_batch_size": 2,
    "lr": 0.003,
    "evaluations": 5,
    "checkpoint_steps": 7,
    "checkpoint_seconds": 2,
    "keep_weights": "best",
}
MODEL = {"model": "local", "max_sequence_length": 64}
PPO = {
    "actor_lr": 1e-3,
    "critic_lr": 1e-3,
    "num_examples": 1,
    "update_timesteps": 8,
    "max_timesteps": 8,
    "batch_size": 4,
    "micro_batch_size": 2,
    "epochs": 2,
    "kl_target": 1.0,
    "checkpoint_steps": 24,
    "checkpoint_seconds": 2,
    "watch_every": 5,
    "watch_falls": None,
}
# Looks on while a policy climbs, so that its best weights are among what a state holds.
JUDGE = {"evaluation": {"judge": "rubric"}, "rubric": [{"name": "a", "says": "a"}]}


@dataclass(frozen=True)
class Trial:
    """One way of running a stage, in a folder of its own; `method` is what makes actor_ppo."""

    stage: str
    processes: int = 1
    zero_stage: int = 0
    steps: int = 120
    method: str = "ppo"

    def __str__(self) -> str:
        by = f", ZeRO {self.zero_stage}" if self.zero_stage else ""
        method = f" by {self.method}" if self.stage == "actor_ppo" else ""
        return f"{self.stage}{method}, {self.processes} process(es){by}"

    @property
    def inputs(self) -> tuple[str, ...]:
        """The assets that are read."""
        if self.stage == "actor_ppo" and self.method in FROM_ROWS:
            return ("actor_sft", "preference_data")
        return {
            "reward_model": ("reward_base", "preference_data", "reward_training_data"),
            "actor_sft": ("actor_base", "actor_training_data"),
            "actor_ppo": ("actor_sft", "reward_model", "rlhf_training_data"),
        }[self.stage]

    def settings(self) -> dict[str, Any]:
        sharded = {"zero_stage": self.zero_stage}
        supervised = {**SUPERVISED, "max_steps": self.steps}
        with_model = {**supervised, **MODEL, **sharded}
        return {
            **JUDGE,
            "improve_by": self.method,
            "actor_config": {**with_model, "max_tokens": 8},
            "reward_config": with_model,
            "trainer_config": {**PPO, "num_episodes": max(1, self.steps // 4)},
            **{f"{name}_config": supervised for name in FROM_ROWS},
            # A model of random weights seldom ends a reply.
            "best_of_n_config": {**supervised, "replies_per_prompt": 32},
        }

    def spec(self, inputs: Path, folder: Path) -> StageSpec:
        """The spec of a fresh run under `folder`."""
        shutil.rmtree(folder, ignore_errors=True)
        (folder / "output").mkdir(parents=True)
        spec = StageSpec(
            stage=self.stage,
            assistant="killed",
            settings=self.settings(),
            inputs={name: str(inputs / name) for name in self.inputs},
            output=str(folder / "output"),
            run_folder=str(folder / "run"),
            result=str(folder / "result.json"),
            threads=1,
        )
        spec.write(folder / "spec.json")
        return spec

    def start(self, folder: Path) -> subprocess.Popen[bytes]:
        """The stage's own command, tied to us; under torchrun with several processes."""
        stage = [
            sys.executable,
            "-m",
            "chatllama_pipeline.launch.stages",
            str(folder / "spec.json"),
        ]
        tied = [sys.executable, "-I", "-S", str(Path(shim.__file__).resolve())]
        command = [*tied, *stage]
        if self.processes > 1:
            torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
            ranks = [f"--nproc-per-node={self.processes}", "--no-python"]
            command = [*tied, *torchrun, *ranks, *tied, *stage]
        environment = {**child_environment(1), shim.PARENT_VARIABLE: str(os.getpid())}
        with (folder / "log").open("ab") as log:
            return subprocess.Popen(
                command, env=environment, stdout=log, stderr=log, start_new_session=True
            )


@dataclass
class Report:
    """What became of a trial."""

    seconds: float
    kills: int = 0
    continued: int = 0
    runs: int = 0
    differing: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        verdict = "identical" if not self.differing else f"DIFFERENT: {self.differing}"
        return (
            f"{self.kills} kills over {self.runs} run(s) of {self.seconds:.0f} s, continued from a "
            f"state {self.continued} times: {verdict}"
        )


def kill_at_random(trial: Trial, inputs: Path, folder: Path, kills: int, seed: int = 0) -> Report:
    """Run `trial` undisturbed, then killed `kills` times in all, and compare the payloads."""
    draw = random.Random(seed)
    whole = folder / "whole"
    trial.spec(inputs, whole)
    started = time.monotonic()
    finish(trial.start(whole), whole)
    report = Report(time.monotonic() - started)
    expected = hashes(whole / "output")
    cut = folder / "cut"
    # Until one struck a training that had saved something, too.
    while report.kills < kills or report.continued == 0:
        trial.spec(inputs, cut)
        report.runs += 1
        ended, strikes = False, 0
        while not ended:
            process = trial.start(cut)
            try:
                # Once enough have struck the run may come to its end.
                more = report.kills < kills or (report.continued == 0 and strikes == 0)
                moment = draw.uniform(0.3, 1.0) * report.seconds if more else None
                ended = process.wait(timeout=moment) == 0
                if not ended:
                    raise RuntimeError((cut / "log").read_text()[-3000:])
            except subprocess.TimeoutExpired:
                process.send_signal(signal.SIGKILL)
                process.wait()
                report.kills, strikes = report.kills + 1, strikes + 1
                # What a killed run half wrote is the store's to clear away.
                shutil.rmtree(cut / "output")
                (cut / "output").mkdir()
        report.continued += (cut / "log").read_text().count("continues ")
        found = hashes(cut / "output")
        report.differing += [n for n in expected | found if expected.get(n) != found.get(n)]
    return report


def finish(process: subprocess.Popen[bytes], folder: Path) -> None:
    if process.wait() != 0:
        raise RuntimeError((folder / "log").read_text()[-3000:])


def hashes(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file()
    }


def make_inputs(folder: Path) -> Path:
    """Tiny models and tables for all three stages, as the store would hold them."""
    size = ScratchSize(hidden_size=32, layers=2, heads=2, vocabulary=300, max_length=128)
    make_scratch_model([" ".join(WORDS)] * 8, size, seed=0, folder=folder / "actor_base")
    for copy in ("reward_base", "actor_sft"):
        shutil.copytree(folder / "actor_base", folder / copy)
    torch.manual_seed(0)
    load_reward(folder / "actor_base", torch.float32).save_pretrained(folder / "reward_model")
    AutoTokenizer.from_pretrained(folder / "actor_base").save_pretrained(folder / "reward_model")
    splits = ["train"] * 7 + ["validation"] * 2
    kinds = ("actor", "pairs", "thumbs", "scores", "prompts")
    rows: dict[str, list[dict[str, Any]]] = {kind: [] for kind in kinds}
    for times in (1, 2, 3):
        for number, (word, split) in enumerate(zip(WORDS, splits, strict=True)):
            prompt = [{"role": "user", "content": " ".join([word] * times)}]
            common = {"prompt": prompt, "source": "test", "split": split}
            rows["actor"].append({**common, "completion": " ".join([word] * (1 + number % 3))})
            rows["prompts"].append(common)
            pair = {"chosen": f"{word} good", "rejected": f"{word} bad bad"}
            rows["pairs"].append({**common, **pair, "strength": 1.0 + number, "domain": ""})
            # Good replies are alike, so that the policy leaves the SFT actor: its KL is above 0.
            good = {"completion": "good good", "label": True}
            rows["thumbs"].append({**common, **good})
            if number % 3 == 0:
                rows["thumbs"].append({**common, "completion": f"{word} bad", "label": False})
            rows["scores"].append({**common, "completion": word, "score": float(number % 6)})
    tables = {
        "actor_training_data": ("actor", ACTOR_SCHEMA),
        "preference_data": ("pairs", PREFERENCE_SCHEMA),
        "reward_training_data": ("scores", REWARD_SCHEMA),
        "rlhf_training_data": ("prompts", PROMPT_SCHEMA),
    }
    for name, (kind, schema) in tables.items():
        (folder / name).mkdir()
        table = pa.Table.from_pylist(rows[kind], schema=schema)
        pq.write_table(table, folder / name / TABLE_FILE)
    thumbs = pa.Table.from_pylist(rows["thumbs"], schema=THUMB_SCHEMA)
    pq.write_table(thumbs, folder / "preference_data" / THUMBS_FILE)
    return folder


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--stages", nargs="+", choices=STAGES, default=list(STAGES))
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=["ppo"])
    parser.add_argument("--processes", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--zero-stage", type=int, default=0)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    differed = False
    with tempfile.TemporaryDirectory() as place:
        inputs = make_inputs(Path(place) / "inputs")
        ways = [
            (stage, method)
            for stage in options.stages
            for method in (options.methods if stage == "actor_ppo" else ["ppo"])
        ]
        for (stage, method), processes in itertools.product(ways, options.processes):
            trial = Trial(stage, processes, options.zero_stage, options.steps, method)
            report = kill_at_random(
                trial, inputs, Path(place) / "trial", options.kills, options.seed
            )
            differed |= bool(report.differing)
            print(f"{trial}: {report}", flush=True)
    return int(differed)


if __name__ == "__main__":
    sys.exit(main())
