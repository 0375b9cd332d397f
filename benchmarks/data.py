"""Speed and memory of the data assets: public rows of full size become the tables.

    python benchmarks/data.py [--scale 1.0] [--max-length 2048] [--folder DIR]

Rows are made up in the public schema with the lengths of the real ones: 385,000 of SHP (1.9 KB, a
post and its replies recur over many pairs) and 170,000 of hh-rlhf (turns and their lengths as in
1,500 rows of harmless-base). They are turned into the sources' tables, `preference_data` and
ChatLLaMA's three datasets in a process of its own, whose peak memory is told. Compare --scale 0.1
with --scale 0.2: seconds should double.

What many rows take on other machines is calculated by CPU seconds per row: those of the main
process pass one after another, those of its workers are shared out over the cores: an upper
bound (the main process works while its workers do), for cores like those at hand.
"""

from __future__ import annotations

import argparse
import gzip
import itertools
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

SHP_ROWS, HH_ROWS = 385_000, 170_000
DOMAINS = ("askacademia", "askbaking", "askculinary", "changemyview", "explainlikeimfive")
# Human turns of 1,495 real prompts, one to nine.
TURNS = np.array([439, 381, 375, 214, 50, 13, 11, 3, 5]) / 1491
WORDS = 40_000
# Of one machine, and of four of 16 cores.
FORECAST_ROWS, FORECAST_CORES = 100_000_000, (2, 4, 16, 64)


class Writer:
    """Texts of made-up words; common words are common."""

    def __init__(self, seed: int) -> None:
        self.draw = np.random.default_rng(seed)
        letters = np.array(list("etaoinshrdlucmfwypvbgkjqxz"))
        lengths = self.draw.integers(2, 10, WORDS)
        self.words = np.array(["".join(self.draw.choice(letters, n)) for n in lengths])
        self.pool = self._pool()
        self.at = 0

    def _pool(self) -> list[str]:
        ranks = np.minimum(self.draw.zipf(1.3, 2_000_000) - 1, WORDS - 1)
        return [str(word) for word in self.words[ranks]]

    def text(self, mean: float) -> str:
        """About `mean` words, lognormally spread as people's texts are."""
        count = max(1, int(mean * self.draw.lognormal(-0.32, 0.8)))
        if self.at + count > len(self.pool):
            self.draw.shuffle(self.pool)
            self.at = 0
        words = self.pool[self.at : self.at + count]
        self.at += count
        return " ".join(words).capitalize() + "."


def shp_rows(count: int) -> Iterator[dict[str, Any]]:
    writer = Writer(1)
    made = 0
    while made < count:
        pairs = min(count - made, int(writer.draw.geometric(1 / 10)))
        count_of_replies = int((2 * pairs) ** 0.5) + 2
        replies = [writer.text(70) for _ in range(count_of_replies)]
        every = list(itertools.combinations(range(count_of_replies), 2))
        post, domain = writer.text(150), DOMAINS[made % len(DOMAINS)]
        for number, (a, b) in enumerate(every[:pairs]):
            ratio = float(1 + writer.draw.exponential(2))
            yield {
                "post_id": f"p{made}",
                "domain": f"{domain}_train",
                "upvote_ratio": 0.97,
                "history": post,
                "c_root_id_A": f"a{a}",
                "c_root_id_B": f"b{b}",
                "created_at_utc_A": 1_600_000_000 + number,
                "created_at_utc_B": 1_600_000_100 + number,
                "score_A": 10,
                "score_B": 5,
                "human_ref_A": replies[a],
                "human_ref_B": replies[b],
                "labels": number % 2,
                "seconds_difference": 100.0,
                "score_ratio": ratio,
            }
        made += pairs


def hh_rows(count: int) -> Iterator[dict[str, Any]]:
    writer = Writer(2)
    for _ in range(count):
        turns = int(writer.draw.choice(len(TURNS), p=TURNS)) + 1
        talk = "".join(
            f"\n\nHuman: {writer.text(13)}\n\nAssistant: {writer.text(32)}"
            for _ in range(turns - 1)
        )
        start = f"{talk}\n\nHuman: {writer.text(13)}\n\nAssistant:"
        yield {
            "chosen": f"{start} {writer.text(32)}",
            "rejected": f"{start} {writer.text(32)}",
        }


def make_rows(folder: Path, scale: float) -> int:
    """Both datasets in the hub's layouts; bytes of their rows as JSON."""
    size = 0
    files: dict[str, Any] = {}
    for row in shp_rows(int(SHP_ROWS * scale)):
        domain = row["domain"].removesuffix("_train")
        if domain not in files:
            path = folder / "shp" / domain / "train.json"
            path.parent.mkdir(parents=True)
            files[domain] = path.open("w")
        line = json.dumps(row) + "\n"
        size += len(line)
        files[domain].write(line)
    for file in files.values():
        file.close()
    path = folder / "hh" / "harmless-base" / "train.jsonl.gz"
    path.parent.mkdir(parents=True)
    with gzip.open(path, "wt", compresslevel=1) as file:
        for row in hh_rows(int(HH_ROWS * scale)):
            line = json.dumps(row) + "\n"
            size += len(line)
            file.write(line)
    return size


def make_tokenizer(folder: Path) -> None:
    """A byte-level BPE of 8,000 tokens, trained on some of the rows."""
    from tokenizers import ByteLevelBPETokenizer

    with (folder / "shp" / DOMAINS[0] / "train.json").open() as lines:
        texts = [json.loads(line)["history"] for line, _ in zip(lines, range(2000), strict=False)]
    tokenizer = ByteLevelBPETokenizer()
    tokenizer.train_from_iterator(texts, vocab_size=8000, show_progress=False)
    (folder / "tokenizer").mkdir()
    tokenizer._tokenizer.save(str(folder / "tokenizer" / "tokenizer.json"))


def busy_seconds() -> np.ndarray:
    """CPU seconds of this process, and of its children that ended."""
    used = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return np.array([one.ru_utime + one.ru_stime for one in used])


def run(folder: Path, max_length: int) -> dict[str, Any]:
    """Build every table; seconds, rows and peak memory by step."""
    import pyarrow.parquet as pq

    from chatllama_pipeline.data.own.personal import TABLES
    from chatllama_pipeline.data.prepare.datasets import (
        build_actor_training_data,
        build_rlhf_training_data,
    )
    from chatllama_pipeline.data.prepare.preferences import build_preference_data
    from chatllama_pipeline.data.sources.catalog import build_source
    from chatllama_pipeline.data.sources.places import Asked
    from chatllama_pipeline.llm.scoring import build_reward_training_data
    from chatllama_pipeline.records import Outcome
    from chatllama_pipeline.settings import AssistantSettings

    settings = AssistantSettings.model_validate(
        {
            "data": {"sources": ["shp", "hh_rlhf"], "max_length": max_length},
            "actor_config": {"tokenizer_path": str(folder / "tokenizer")},
        }
    )
    out = folder / "out"
    for name in ("shp", "hh_rlhf", "preference", "actor", "rlhf", "reward", "personal", "none"):
        (out / name).mkdir(parents=True)
    for name, schema in TABLES.items():
        pq.write_table(schema.empty_table(), out / "personal" / f"{name}.parquet")
    pq.write_table(TABLES["actor"].empty_table(), out / "none" / "data.parquet")
    sources = {name: out / name for name in ("shp", "hh_rlhf")}
    none, own, pairs = out / "none", out / "personal", out / "preference"
    steps: dict[str, Callable[[], Outcome]] = {
        "shp": lambda: build_source("shp", out / "shp", Asked(str(folder / "shp"))),
        "hh_rlhf": lambda: build_source("hh_rlhf", out / "hh_rlhf", Asked(str(folder / "hh"))),
        "preference_data": lambda: build_preference_data(sources, own, settings, pairs),
        "actor_training_data": lambda: build_actor_training_data(
            pairs, none, own, settings, out / "actor"
        ),
        "rlhf_training_data": lambda: build_rlhf_training_data(
            pairs, none, own, settings, out / "rlhf"
        ),
        "reward_training_data": lambda: build_reward_training_data(
            pairs, none, own, settings, out / "reward"
        ),
    }
    return {name: measured(step) for name, step in steps.items()}


def measured(step: Callable[[], Any]) -> dict[str, Any]:
    """Seconds, rows and peak memory of a step."""
    started, busy = time.perf_counter(), busy_seconds()
    outcome = step()
    main, workers = (busy_seconds() - busy).tolist()
    return {
        "seconds": time.perf_counter() - started,
        "main": main,
        "workers": workers,
        "rows": outcome.rows,
        "tokenized": outcome.metrics.get("tokenized_texts", 0),
        "dropped": outcome.metrics["dropped"],
        "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
        # Of the largest child; what it shares with the others is in each one's.
        "child": resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--scale", type=float, default=1.0, help="share of the full size")
    parser.add_argument("--max-length", type=int, default=2048, help="tokens of prompt and reply")
    parser.add_argument("--folder", type=Path, help="where rows and tables go (else: a new one)")
    parser.add_argument("--run", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.run:
        print(json.dumps(run(options.folder, options.max_length)))
        return
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        folder = Path(name)
        size = make_rows(folder, options.scale)
        make_tokenizer(folder)
        command = [sys.executable, __file__, "--run", "--folder", name]
        command += ["--max-length", str(options.max_length)]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    report(json.loads(done.stdout.splitlines()[-1]), size)


def report(steps: dict[str, Any], size: int) -> None:
    total = sum(step["seconds"] for step in steps.values())
    rows = steps["shp"]["rows"] + steps["hh_rlhf"]["rows"]
    print(
        f"{'step':<22}{'rows':>9}{'seconds':>9}{'cpu':>8}{'workers':>9}{'share':>7}{'GiB':>7}"
        f"{'child':>7}{'tokenized':>11}"
    )
    for name, step in steps.items():
        share = step["seconds"] / total
        print(
            f"{name:<22}{step['rows']:>9}{step['seconds']:>9.1f}{step['main']:>8.1f}"
            f"{step['workers']:>9.1f}{share:>7.0%}{step['peak']:>7.2f}{step['child']:>7.2f}"
            f"{step['tokenized']:>11}"
        )
    print(f"\n{rows} pairs ({size / 2**20:.0f} MiB as JSON) in {total:.1f} s: {rows / total:.0f}/s")
    main, workers = (
        sum(step[who] for step in steps.values()) / rows for who in ("main", "workers")
    )
    print(f"CPU per pair: {main * 1e6:.0f} us, of the workers {workers * 1e6:.0f} us")
    for cores in FORECAST_CORES:
        hours = FORECAST_ROWS * (main + workers / cores) / 3600
        print(f"{FORECAST_ROWS:,} pairs on {cores} such cores: {hours:.1f} hours at most")
    for name, step in steps.items():
        if step["dropped"]:
            print(f"{name} dropped {step['dropped']}")


if __name__ == "__main__":
    main()
