"""Memory and seconds in which a training reads its rows, before it takes a step.

    python benchmarks/memory/reading.py [--rows 500000] [--stage actor_sft --stage reward_model]

Conversations of some 60 words, pairs likewise, are read, tokenized and counted by what the stages
themselves call before they load a model (`prepare`), each in a process of its own. Told are its
peak memory, and how much of it there was before the rows came.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from importlib import import_module
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.data import Writer
from chatllama_pipeline.records import SPLITS, StageSpec
from chatllama_pipeline.schemas import ACTOR_SCHEMA, PREFERENCE_SCHEMA, REWARD_SCHEMA

STAGES = {
    "actor_sft": "chatllama_pipeline.training.sft.stage",
    "reward_model": "chatllama_pipeline.training.reward.stage",
}
DISTINCT_TEXTS = 5_000
CONTEXT = 512


def make_tables(folder: Path, rows: int) -> list[str]:
    """The tables that the stages read; some of their texts."""
    writer, draw = Writer(1), np.random.default_rng(2)
    texts = pa.array([writer.text(30) for _ in range(DISTINCT_TEXTS)])
    users = pa.array([[{"role": "user", "content": text}] for text in texts.to_pylist()])
    tables = {
        "actor_training_data": (ACTOR_SCHEMA, rows),
        "preference_data": (PREFERENCE_SCHEMA, rows),
        "reward_training_data": (REWARD_SCHEMA, 0),
    }
    for name, (schema, count) in tables.items():

        def some(count: int = count) -> pa.Array:
            return pa.array(draw.integers(0, DISTINCT_TEXTS, count))

        columns = {
            "prompt": users.cast(schema.field("prompt").type).take(some()),
            "chosen": texts.take(some()),
            "rejected": texts.take(some()),
            "completion": texts.take(some()),
            "strength": pa.array(np.ones(count)),
            "score": pa.array(np.zeros(count)),
            "source": pa.array(["made up"] * count),
            "domain": pa.array([""] * count),
            "split": pa.array(
                np.array(SPLITS)[(draw.random(count) > 0.95).astype(int)], pa.string()
            ),
        }
        (folder / name).mkdir()
        table = pa.table([columns[field] for field in schema.names], schema=schema)
        pq.write_table(table, folder / name / "data.parquet", row_group_size=10_000)
    return texts.to_pylist()


def make_bases(folder: Path, texts: list[str]) -> None:
    from chatllama_pipeline.models.bases.scratch import ScratchSize, make_scratch_model

    size = ScratchSize(hidden_size=32, layers=2, heads=2, vocabulary=4000, max_length=CONTEXT)
    for name in ("actor_base", "reward_base"):
        make_scratch_model(texts, size, seed=0, folder=folder / name)


def peak() -> float:
    """GiB that this process took at most."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def read(stage: str, folder: Path) -> dict[str, float]:
    """What reading takes in this process."""
    from chatllama_pipeline.progress import Progress
    from chatllama_pipeline.settings import AssistantSettings

    section = {"max_sequence_length": CONTEXT, "max_steps": 1}
    sections = {name: dict(section) for name in ("actor_config", "reward_config")}
    sections["reward_config"]["objective"] = "pairwise"
    settings = AssistantSettings.model_validate(sections)
    spec = StageSpec(
        stage=stage,
        assistant="benchmark",
        settings=settings.model_dump(mode="json"),
        inputs={path.name: str(path) for path in folder.iterdir()},
        output=str(folder / "output"),
        run_folder=str(folder / f"run_{stage}"),
        result=str(folder / "result.json"),
    )
    prepare = import_module(STAGES[stage]).prepare
    before, started = peak(), time.process_time()
    kept = prepare(spec, settings, Progress("reads", lambda line: None))
    seconds = time.process_time() - started
    del kept
    return {"seconds": seconds, "before": before, "peak": peak()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=500_000)
    parser.add_argument("--stage", action="append", choices=sorted(STAGES), default=[])
    parser.add_argument("--run", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.run:
        print(json.dumps(read(options.run[0], Path(options.run[1]))))
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_bases(folder, make_tables(folder, options.rows))
        for stage in options.stage or STAGES:
            command = [sys.executable, __file__, "--run", stage, name]
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
            told = json.loads(done.stdout.splitlines()[-1])
            print(
                f"{stage}: {options.rows:,} rows in {told['seconds']:.0f} CPU seconds; peak "
                f"{told['peak']:.2f} GiB, {told['before']:.2f} of it before the rows",
                flush=True,
            )


if __name__ == "__main__":
    main()
