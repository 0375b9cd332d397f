"""What a run asks of its cluster before it builds anything."""

from __future__ import annotations

import re
from pathlib import Path

import dagster as dg
import pytest

from chatllama_pipeline.store.versions import Store
from resources.compute import Compute
from tests.pipeline.own_rows import MADE, NAME, make_data, write_rows

NO_SLURM = "sbatch, scontrol, scancel, squeue can't be found"


@pytest.mark.parametrize(
    ("compute", "told"),
    [
        (Compute(launcher="slurm"), NO_SLURM),
        (Compute(launcher="pbs"), "compute.launcher is 'pbs': use one of"),
        (Compute(launcher="ray", nodes=0), "compute.nodes is 0: use 1 or more"),
    ],
    ids=["nobody", "unknown", "nothing"],
)
def test_a_cluster_that_takes_no_job_is_told_before_the_data_is_made(
    store: Store,
    instance: dg.DagsterInstance,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    compute: Compute,
    told: str,
) -> None:
    write_rows(store, 10)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(dg.Failure, match=re.escape(told)):
        make_data(instance, "actor_base", compute=compute)
    assert [store.current(asset, NAME) for asset in MADE] == [None] * len(MADE)


def test_a_run_without_stages_asks_nothing_of_a_cluster(
    store: Store, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    write_rows(store, 10)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert make_data(instance, compute=Compute(launcher="slurm")).success
