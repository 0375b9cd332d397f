"""How long a run's children take to start, by a warm parent and each by itself; the definitions.

    python benchmarks/start.py                          # the quickstart, both ways
    python benchmarks/start.py --assistant mine --ways warm
    python benchmarks/start.py --pairs 9                # the definitions alone

For each child: seconds from its start to its first line of progress, all of its seconds, and those
of its training loop. Then the median of the first, what of the run was spent outside of training
loops, and all CPU seconds. Each run makes all of the assistant, in a store of its own. The
definitions are imported in turns with Dagster alone, by new processes; their CPU seconds and ratio.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

from chatllama_pipeline.cli.dagster_runs import dagster_command, dagster_environment
from chatllama_pipeline.launch import STAGES
from chatllama_pipeline.store.versions import Store

WAYS = {"warm": True, "alone": False}
LOOK_SECONDS = 0.05
RUN_OPTIONS = {"overrides": {}, "force": [], "promote": False, "take_over": False}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--assistant", default="quickstart")
    parser.add_argument("--ways", nargs="*", choices=WAYS, default=list(WAYS))
    parser.add_argument("--pairs", type=int, default=0, help="measure the definitions alone")
    options = parser.parse_args()
    if options.pairs:
        compare_imports(options.pairs)
        return
    for way in options.ways:
        with tempfile.TemporaryDirectory(prefix="chatllama_benchmark_") as folder:
            measure(options.assistant, way, Path(folder))


def compare_imports(pairs: int) -> None:
    """Print what importing the definitions takes, beside what `import dagster` does."""
    programs = "import dagster", "import chatllama_pipeline.definitions"
    for program in programs:
        import_seconds(program)  # which compiles what isn't yet
    found = [[import_seconds(program) for program in programs] for _ in range(pairs)]
    alone, ours = map(statistics.median, zip(*found, strict=True))
    ratios = sorted(ours / alone for alone, ours in found)
    print(
        f"CPU in the median of {pairs} pairs: import dagster {alone:.2f} s, the definitions "
        f"{ours:.2f} s; ratio {statistics.median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})"
    )


def import_seconds(program: str) -> float:
    """CPU seconds of a new Python that runs `program`."""
    before = cpu_seconds()
    # Set, it would have our sources compiled at each start, and not those that pip compiled.
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": ""}
    command = [sys.executable, "-c", program]
    subprocess.run(command, env=environment, stderr=subprocess.DEVNULL, check=True)
    return cpu_seconds() - before


def measure(assistant: str, way: str, folder: Path) -> None:
    """Make `assistant` in the store `folder / "storage"` and print what its children took."""
    command = dagster_command(assistant, "*", RUN_OPTIONS)
    config = json.loads(command[-1])
    config["resources"]["compute"] = {"config": {"warm_parent": WAYS[way]}}
    store, home = folder / "storage", folder / "dagster_home"
    home.mkdir()
    places = {"CHATLLAMA_STORE": str(store), "DAGSTER_HOME": str(home)}
    first_lines: dict[str, float] = {}
    over = threading.Event()
    watcher = threading.Thread(target=watch, args=(store / "_runs", first_lines, over))
    watcher.start()
    cpu, started = cpu_seconds(), time.monotonic()
    try:
        subprocess.run(
            [*command[:-1], json.dumps(config)],
            env={**dagster_environment(), **places},
            stderr=subprocess.DEVNULL,
            check=True,
        )
    finally:
        over.set()
        watcher.join()
    show(way, time.monotonic() - started, cpu_seconds() - cpu, first_lines, Store(store), assistant)


def watch(runs: Path, first_lines: dict[str, float], over: threading.Event) -> None:
    """Note for each stage how long its log stayed empty, which is made just before the child."""
    begun: dict[str, float] = {}
    while not over.wait(LOOK_SECONDS):
        for log in runs.glob("*/*/*/spec.log"):
            stage = log.relative_to(runs).parts[0]
            begun.setdefault(stage, time.monotonic())
            if stage not in first_lines and log.exists() and log.stat().st_size:
                first_lines[stage] = time.monotonic() - begun[stage]


def show(
    way: str,
    seconds: float,
    cpu: float,
    first_lines: dict[str, float],
    store: Store,
    assistant: str,
) -> None:
    """Print a line for each child, and one for the run."""
    print(f"{way}, {os.cpu_count()} cores   first line   child  training loop   (seconds)")
    trained = 0.0
    for stage in STAGES:
        if store.current(stage, assistant) is None:  # a release that the gate held back
            continue
        metrics = store.read(stage, assistant).manifest.metrics
        # PPO's loop by its phases, the others' as a whole.
        loop = sum(
            float(value)
            for name, value in metrics.items()
            if name == "train_seconds" or (stage == "actor_ppo" and name.startswith("seconds_"))
        )
        trained += loop
        first = f"{first_lines[stage]:10.2f}" if stage in first_lines else "    silent"
        print(f"{stage:20s} {first} {float(metrics['child_seconds']):7.2f} {loop:14.2f}")
    median = statistics.median(first_lines.values())
    print(
        f"median first line {median:.2f} s; the run {seconds:.1f} s, of which "
        f"{100 * (1 - trained / seconds):.0f} % outside of training loops; CPU {cpu:.1f} s"
    )


def cpu_seconds() -> float:
    """User's and system's, of all children so far that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


if __name__ == "__main__":
    main()
