"""Which engine takes duplicates out of many prompts: ours, DuckDB or Polars' streaming one.

    python benchmarks/data_engines.py [--rows 200000] [--engine ours --engine duckdb]

The same prompts (some 150 words as on Reddit; a tenth stands there twice, a tenth again with a word
changed) are read from Parquet, exact and near duplicates dropped, sides given by a hash, and the
rest is written. Near duplicates are found alike by all: 64 MinHashes of three-word shingles, 16
bands of 4, an estimated Jaccard similarity of .8. Each runs in a process of its own; told are
seconds, CPU seconds, peak memory, and which of the planted duplicates were found. DuckDB and
Polars are no dependencies: `pip install -c constraints.txt duckdb polars`.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.data import Writer
from chatllama_pipeline.data.near_duplicates import _components

LEAST_WORDS = 33
BANDS, PER_BAND, SIMILAR = 16, 4, 0.8
SIZES = BANDS * PER_BAND
MEMORY = "3GB"
VALIDATION, TEST = 0.05, 0.05


def make_prompts(path: Path, rows: int) -> None:
    """`id`, `of` (the id of the prompt that it repeats, else its own) and the prompt."""
    writer, draw = Writer(1), np.random.default_rng(2)
    texts = [writer.text(150) for _ in range(rows * 8 // 10)]
    of = [*range(len(texts))]
    for number in draw.integers(0, len(texts), rows - len(texts)).tolist():
        words = texts[number].split()
        if len(of) % 2 and len(words) > 2 * LEAST_WORDS:
            words[int(draw.integers(0, len(words)))] = "another"
        texts.append(" ".join(words))
        of.append(number)
    order = draw.permutation(rows)
    prompts = [[{"role": "user", "content": texts[number]}] for number in order]
    kind = pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))
    columns = {
        "id": pa.array(order, pa.int64()),
        "of": pa.array(np.array(of)[order], pa.int64()),
        "prompt": pa.array(prompts, kind),
        "source": pa.array(["made up"] * rows),
    }
    pq.write_table(pa.table(columns), path, row_group_size=10_000)


def ours(source: Path, target: Path) -> None:
    from chatllama_pipeline.data.prepare.rows import Preparation
    from chatllama_pipeline.data.prepare.tokens import Limits
    from chatllama_pipeline.data.tables import read_batches
    from chatllama_pipeline.settings import AssistantSettings
    from chatllama_pipeline.table_files import row_count, table_schema

    settings = AssistantSettings.model_validate(
        {"data": {"validation_share": VALIDATION, "test_share": TEST}}
    )
    count = row_count(source)
    rows = Preparation((), settings, Limits(None, None), target.parent, count)
    for _ in rows.scanned(read_batches(source)):
        pass
    rows.drop_duplicates()
    rows.drop_near_duplicates()
    schema = table_schema(source).append(pa.field("split", pa.string()))
    rows.emit(read_batches(source), target, schema, lambda group: None)


def _keep(ids: Any, left: Any, right: Any) -> pa.Table:
    """The ids that stay, the least of each cluster: what engines have no word for."""
    ids = np.sort(ids)
    ends = (np.searchsorted(ids, np.asarray(side)) for side in (left, right))
    labels = _components(len(ids), *ends)
    return pa.table({"id": ids[np.unique(labels)]})


def duckdb(source: Path, target: Path) -> None:
    import duckdb as engine

    base = engine.connect(str(target.with_suffix(".duckdb")))
    base.execute(f"SET memory_limit='{MEMORY}'; SET preserve_insertion_order=false")
    base.execute(f"SET temp_directory='{target.parent}'")
    base.execute(f"SET threads={len(os.sched_getaffinity(0))}")
    base.execute(
        "CREATE TABLE texts AS SELECT min(id) AS id, words FROM (SELECT id, "
        "regexp_extract_all(lower(prompt[1].content), '[a-z0-9]+') AS words "
        f"FROM read_parquet('{source}')) GROUP BY words"
    )
    hashes = ", ".join(
        f"min(hash(xor(s, {seed * 7919 + 1}::UBIGINT))) h{seed}" for seed in range(SIZES)
    )
    base.execute(
        f"CREATE TABLE signs AS SELECT id, {hashes} FROM (SELECT id, hash(unnest("
        "list_transform(range(1, len(words) - 1), lambda i: words[i:i + 2]))) AS s "
        f"FROM texts WHERE len(words) >= {LEAST_WORDS}) GROUP BY id"
    )
    pairs = []
    alike = " + ".join(f"(a.h{n} = b.h{n})::INT" for n in range(SIZES))
    for band in range(BANDS):
        same = [f"h{n}" for n in range(band * PER_BAND, (band + 1) * PER_BAND)]
        pairs.append(
            f"SELECT a.id AS one, b.id AS other FROM signs a JOIN signs b "
            f"USING ({', '.join(same)}) WHERE a.id < b.id AND {alike} >= {SIMILAR * SIZES}"
        )
    found = base.execute(" UNION ".join(pairs)).fetchnumpy()
    ids = base.execute("SELECT id FROM texts").fetchnumpy()["id"]
    kept = _keep(ids, found["one"], found["other"])
    base.register("kept", kept)
    place = "(hash(lower(prompt[1].content)) / 18446744073709551616.0)"
    side = (
        f"CASE WHEN {place} < {TEST} THEN 'test' "
        f"WHEN {place} < {TEST + VALIDATION} THEN 'validation' ELSE 'train' END"
    )
    base.execute(
        f"COPY (SELECT t.*, {side} AS split FROM read_parquet('{source}') t "
        f"JOIN kept USING (id)) TO '{target}' (FORMAT parquet)"
    )


def polars(source: Path, target: Path) -> None:
    import polars as pl

    text = pl.col("prompt").list.first().struct.field("content").str.to_lowercase()
    words = pl.scan_parquet(source).select("id", words=text.str.extract_all("[a-z0-9]+"))
    distinct = words.group_by(pl.col("words").list.join(" ").hash().alias("whole")).agg(
        pl.col("id").min()
    )
    ids = distinct.collect(engine="streaming")
    # Shingles by neighbours within a text, a row per word.
    word = pl.col("words").hash()
    long = (
        words.join(ids.lazy().select("id"), on="id", how="semi")
        .filter(pl.col("words").list.len() >= LEAST_WORDS)
        .explode("words")
        .select(
            "id",
            s=word ^ (word.shift(-1) * 3) ^ (word.shift(-2) * 5),
            last=pl.col("id") == pl.col("id").shift(-2),
        )
        .filter("last")
    )
    signs = (
        long.group_by("id")
        .agg([pl.col("s").hash(seed).min().alias(f"h{seed}") for seed in range(SIZES)])
        .collect(engine="streaming")
    )
    left, right = [], []
    for band in range(BANDS):
        same = [f"h{n}" for n in range(band * PER_BAND, (band + 1) * PER_BAND)]
        pair = signs.lazy().select("id", *same)
        met = pair.join(pair, on=same, suffix="_b").filter(pl.col("id") < pl.col("id_b"))
        met = met.select("id", "id_b").collect(engine="streaming")
        one, other = (
            met.select(pl.col(n).alias("id")).join(
                signs, on="id", how="left", maintain_order="left"
            )
            for n in ("id", "id_b")
        )
        equal = sum((one[f"h{n}"] == other[f"h{n}"]).cast(pl.Int32) for n in range(SIZES))
        alike = (equal >= SIMILAR * SIZES).to_numpy() if len(met) else np.zeros(0, np.bool_)
        left.append(met["id"].to_numpy()[alike])
        right.append(met["id_b"].to_numpy()[alike])
    kept = pl.from_arrow(_keep(ids["id"].to_numpy(), np.concatenate(left), np.concatenate(right)))
    place = text.hash() / 2.0**64
    side = pl.when(place < TEST).then(pl.lit("test")).when(place < TEST + VALIDATION)
    side = side.then(pl.lit("validation")).otherwise(pl.lit("train"))
    stay = pl.scan_parquet(source).join(kept.lazy(), on="id", how="semi")
    stay.with_columns(split=side).sink_parquet(target)


ENGINES: dict[str, Callable[[Path, Path], None]] = {
    "ours": ours,
    "duckdb": duckdb,
    "polars": polars,
}


def measured(engine: str, source: Path, target: Path) -> dict[str, float]:
    """What a run of this process took, its children with it."""
    started = time.perf_counter()
    ENGINES[engine](source, target)
    seconds = time.perf_counter() - started
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return {
        "seconds": seconds,
        "cpu": sum(one.ru_utime + one.ru_stime for one in used),
        "peak": used[0].ru_maxrss / 2**20,
        "child": used[1].ru_maxrss / 2**20,
    }


def found(source: Path, target: Path) -> str:
    """How many of the repeated prompts were left once, and how many others are gone."""
    rows, kept = pq.read_table(source, columns=["id", "of"]), pq.read_table(target, columns=["id"])
    left = np.isin(rows["id"].to_numpy(), kept["id"].to_numpy())
    of = rows["of"].to_numpy()
    stay = np.bincount(of[left], minlength=int(of.max()) + 1)
    once = np.bincount(of, minlength=len(stay))
    repeated, alone = once > 1, once == 1
    surplus = int((once[repeated] - 1).sum())
    gone = surplus - int(np.maximum(stay[repeated] - 1, 0).sum())
    return (
        f"{gone / surplus:.2%} of {surplus:,} repeats gone, {int((stay[alone] == 0).sum())} others"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--engine", action="append", choices=sorted(ENGINES), default=[])
    parser.add_argument("--run", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.run:
        engine, source, target = options.run
        print(json.dumps(measured(engine, Path(source), Path(target))))
        return
    with tempfile.TemporaryDirectory() as name:
        source = Path(name) / "prompts.parquet"
        make_prompts(source, options.rows)
        print(f"{'engine':<8}{'seconds':>9}{'cpu':>8}{'us/row':>8}{'GiB':>7}{'child':>7}  found")
        for engine in options.engine or ENGINES:
            target = Path(name) / engine / "data.parquet"
            target.parent.mkdir()
            command = [sys.executable, __file__, "--run", engine, str(source), str(target)]
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
            told = json.loads(done.stdout.splitlines()[-1])
            each = told["cpu"] / options.rows * 1e6
            print(
                f"{engine:<8}{told['seconds']:>9.1f}{told['cpu']:>8.1f}{each:>8.0f}"
                f"{told['peak']:>7.2f}{told['child']:>7.2f}  {found(source, target)}",
                flush=True,
            )


if __name__ == "__main__":
    main()
