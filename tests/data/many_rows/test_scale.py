"""Memory and time where rows are many; `benchmarks/data.py` makes the rows."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[3]

# Peak memory in MiB of making SHP's table of some copies of a file with other questions.
MAKE = """
import json, resource, sys
from pathlib import Path
from chatllama_pipeline.data.sources.places import Asked
from chatllama_pipeline.data.sources.catalog import build_source
root, rows = Path(sys.argv[1]), int(sys.argv[2])
with (root / "rows.jsonl").open("w") as file:
    for n in range(rows):
        text = f"{n} " + "word " * 180
        row = {"history": text, "human_ref_A": text + "a", "human_ref_B": text + "b", "labels": 1}
        file.write(json.dumps(row) + "\\n")
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
assert build_source("shp", root, Asked(str(root / "rows.jsonl"))).rows == rows
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)
"""


def peak_of(folder: Path, rows: int) -> float:
    folder.mkdir()
    command = [sys.executable, "-c", MAKE, str(folder), str(rows)]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=True)
    return float(done.stdout)


@pytest.mark.slow
def test_the_memory_of_a_source_does_not_grow_with_its_rows(tmp_path: Path) -> None:
    # 2.7 KB a row: 130 and 540 MB, of which 64 wait in memory.
    few, many = peak_of(tmp_path / "few", 50_000), peak_of(tmp_path / "many", 200_000)
    assert many < few + 80


@pytest.mark.slow
def test_the_benchmark_makes_every_table_and_tells_what_each_step_took(tmp_path: Path) -> None:
    command = [sys.executable, "benchmarks/data.py", "--scale", "0.004", "--folder", str(tmp_path)]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=True)
    rows = {line.split()[0]: int(line.split()[1]) for line in done.stdout.splitlines()[1:7]}
    # 385,000 * .004 and 170,000 * .004.
    assert (rows["shp"], rows["hh_rlhf"]) == (1540, 680)
    assert 0.9 * 2220 < rows["preference_data"] <= 2220
    assert rows["actor_training_data"] > 0 < rows["rlhf_training_data"]
    assert re.search(r"\d+ pairs \(\d+ MiB as JSON\) in [\d.]+ s: \d+/s", done.stdout)
