"""What either side's PPO makes of the quickstart's SFT actor at equal samples, by our evaluation.

Ours is the quickstart's `actor_ppo` as a run makes it, but that the judge doesn't look on amid
training: its last policy counts. trl's starts from the same SFT actor and reward model (its critic
from the reward model too), with the same prompts, iterations, epochs, minibatches and settings.
Both reply to the same test prompts, and are read by the same reward model, rubric and reference.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.against_trl.environment import ROOT, Interpreter
from benchmarks.train import improved
from chatllama_pipeline.evaluation import compare
from chatllama_pipeline.progress import Progress
from chatllama_pipeline.records import StageSpec
from chatllama_pipeline.settings.folder import load_assistant
from chatllama_pipeline.store.versions import Store

ASSISTANT = "quickstart"
READ = ("actor_sft", "reward_model", "rlhf_training_data", "preference_data")
FIGURES = ("reward", "rubric", "kl", "finished", "seconds")
Figures = dict[str, float]


def compare_learning(seeds: list[int], theirs: Interpreter, folder: Path) -> None:
    """Print a line for SFT actor and either side on each seed, and the means over all seeds."""
    told: dict[str, list[Figures]] = defaultdict(list)
    for seed in seeds:
        place = folder / f"seed_{seed}"
        place.mkdir(parents=True, exist_ok=True)
        for name, figures in learned(seed, theirs, place).items():
            told[name].append(figures)
            print(f"seed {seed}, {in_words(name, figures)}", flush=True)
    for name, found in told.items():
        means = {key: statistics.mean(each[key] for each in found) for key in FIGURES}
        print(f"mean of {len(found)}, {in_words(name, means)}")


def learned(seed: int, theirs: Interpreter, folder: Path) -> dict[str, Figures]:
    """What SFT actor and either side's come to; what stands in the `folder` isn't made again."""
    iterations = load_assistant(ASSISTANT).settings.trainer_config.iterations
    overrides = {"seed": seed, "trainer_config.watch_every": iterations}
    found = kept(folder / "ours.json", lambda: by_us(overrides, folder))
    return found | kept(folder / "trl.json", lambda: by_trl(overrides, theirs, folder))


def kept(path: Path, make: Callable[[], dict[str, Figures]]) -> dict[str, Figures]:
    """What stands at `path`, else what is made and put there."""
    if not path.exists():
        path.write_text(json.dumps(make()))
    found: dict[str, Figures] = json.loads(path.read_text())
    return found


def by_us(overrides: dict[str, Any], folder: Path) -> dict[str, Figures]:
    before, after = improved(folder, overrides)
    place = Store(folder / "CHATLLAMA_STORE").read("evaluation", ASSISTANT).path
    found = json.loads((place / "evaluation.json").read_text())
    return {
        "SFT": of(found, "actor_sft", before["seconds"]) | {"kl": 0.0},
        "ours": of(found, "actor_ppo", after["seconds"]),
    }


def by_trl(overrides: dict[str, Any], theirs: Interpreter, folder: Path) -> dict[str, Figures]:
    """From what the quickstart made in the `folder`."""
    store = Store(folder / "CHATLLAMA_STORE")
    spec = StageSpec(
        stage="actor_ppo",
        assistant=ASSISTANT,
        settings=load_assistant(ASSISTANT, overrides).settings.model_dump(mode="json"),
        inputs={name: str(store.read(name, ASSISTANT).path) for name in READ},
        output=str(folder / "trl"),
        run_folder=str(folder / "trl_run"),
        result=str(folder / "trl_result.json"),
    )
    seconds = learn_by_trl(spec, theirs)
    return {"trl": of(evaluate(spec, folder / "trl_evaluation"), "actor_ppo", seconds)}


def learn_by_trl(spec: StageSpec, theirs: Interpreter) -> float:
    """Seconds of the process that trains trl's actor into the spec's output."""
    for place in (spec.output, spec.run_folder):
        Path(place).mkdir(exist_ok=True)
    path = Path(spec.run_folder) / "spec.json"
    spec.write(path)
    log, began = Path(spec.run_folder) / "log", time.monotonic()
    with log.open("w") as file:
        done = subprocess.run(
            [str(theirs.python), "-m", "benchmarks.against_trl.their_learning", str(path)],
            cwd=ROOT,
            env=theirs.environment(allocator=False),
            stdout=file,
            stderr=subprocess.STDOUT,
        )
    if done.returncode:
        raise SystemExit(f"trl ended early:\n{log.read_text()[-3000:]}")
    return time.monotonic() - began


def evaluate(spec: StageSpec, folder: Path) -> dict[str, Any]:
    """Our evaluation of the actor in the spec's output, on the test prompts."""
    (folder / "run").mkdir(parents=True, exist_ok=True)
    inputs = {**spec.inputs, "actor_ppo": spec.output}
    asked = replace(
        spec, stage="evaluation", inputs=inputs, output=str(folder), run_folder=str(folder / "run")
    )
    compare.run(asked, Progress("evaluation", lambda line: None))
    found: dict[str, Any] = json.loads((folder / "evaluation.json").read_text())
    return found


def of(evaluation: dict[str, Any], actor: str, seconds: float) -> Figures:
    """An actor's figures in `evaluation.json`."""
    found = evaluation[actor]
    return {
        "reward": found["reward"],
        "rubric": found["rubric_score"],
        "kl": evaluation["kl"],
        "finished": found["share_finished"],
        "seconds": seconds,
    }


def in_words(name: str, figures: Figures) -> str:
    return (
        f"{name:4s}: reward {figures['reward']:.3f}, rubric {figures['rubric']:.3f}, "
        f"KL {figures['kl']:.2f}, {figures['finished']:.1%} of replies end, "
        f"{figures['seconds']:.0f} s"
    )
