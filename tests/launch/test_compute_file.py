"""`CHATLLAMA_COMPUTE`: what every run of a machine takes for granted."""

from pathlib import Path

import dagster as dg
import pytest

from chatllama_pipeline.errors import SettingsError
from chatllama_pipeline.launch.slurm.script import Wanted, write_scripts
from chatllama_pipeline.records import Outcome, StageSpec
from resources.compute import Compute
from resources.compute_file import compute_here


@pytest.fixture
def written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "compute.yaml"
    monkeypatch.setenv("CHATLLAMA_COMPUTE", str(path))
    return path


def test_without_a_file_everything_runs_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CHATLLAMA_COMPUTE", raising=False)
    assert compute_here().model_dump() == Compute().model_dump()


def test_the_files_values_are_the_defaults_of_every_run(written: Path) -> None:
    written.write_text(
        "launcher: slurm\nnodes: 2\nprocesses: 4\nslurm: {partition: a100, gpus: 4}\n"
    )
    made = compute_here()
    assert (made.launcher, made.nodes, made.slurm.partition) == ("slurm", 2, "a100")

    seen: list[Compute] = []

    @dg.asset
    def looks(compute: Compute) -> None:
        seen.append(compute)

    changed = {"resources": {"compute": {"config": {"nodes": 1, "slurm": {"gpus": 8}}}}}
    dg.materialize([looks], resources={"compute": made}, run_config=changed)
    assert (seen[0].launcher, seen[0].nodes, seen[0].processes) == ("slurm", 1, 4)
    assert seen[0].slurm.gpus == 8


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("nodes: [", "can't be read"),
        ("- nodes", "must hold keys and values"),
        ("node: 2", "unknown key 'node'; those there are: device"),
        ("slurm: {queue: a100}", r"unknown key 'slurm.queue'; those there are: partition"),
        ("slurm: {time_limit: 12:00:00}", "slurm.time_limit: .* put it into quotes"),
        ("slurm: a100", "slurm must hold keys and values"),
        ("nodes: many", "nodes: Input should be a valid integer"),
    ],
)
def test_what_is_wrong_with_the_file_is_told_with_its_name_and_key(
    written: Path, content: str, told: str
) -> None:
    written.write_text(content)
    with pytest.raises(SettingsError, match=rf"CHATLLAMA_COMPUTE: .*compute.yaml.*{told}"):
        compute_here()


def test_the_file_that_the_docs_show_is_one(written: Path) -> None:
    page = (Path(__file__).parents[2] / "docs" / "cluster.md").read_text()
    written.write_text(page.split("```text\n")[1].split("```")[0])
    made = compute_here()
    assert made.slurm.wanted(made.nodes, made.processes, made.threads).time_limit == "12:00:00"


def test_a_file_that_is_not_there_is_told(written: Path) -> None:
    with pytest.raises(SettingsError, match=r"compute.yaml can't be read"):
        compute_here()


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"launcher": "pbs"}, "compute.launcher is 'pbs': use one of local, slurm"),
        ({"nodes": 2}, "compute.nodes is 2, and compute.launcher 'local'"),
        ({"launcher": "slurm", "nodes": 0}, "compute.nodes is 0: use 1 or more"),
        (
            {"launcher": "slurm", "device": "cuda"},
            "compute.device is 'cuda', but compute.slurm.gpus is 0",
        ),
        (
            {"launcher": "slurm", "processes": 4, "slurm": {"gpus": 2}},
            "compute.processes is 4, compute.slurm.gpus 2",
        ),
        ({"launcher": "slurm", "slurm": {"queue_minutes": 0}}, "queue_minutes is 0: use more"),
    ],
)
def test_what_no_cluster_could_give_is_refused_before_anything_starts(
    tmp_path: Path, values: dict[str, object], told: str
) -> None:
    with pytest.raises(SettingsError, match=told):
        ran(tmp_path, Compute(**values))  # type: ignore[arg-type]


def test_a_machine_without_slurm_is_told_before_anything_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SettingsError, match="sbatch, scontrol, scancel, squeue can't be found"):
        ran(tmp_path, Compute(launcher="slurm"))


def test_the_task_of_several_nodes_meets_at_the_first_of_them(tmp_path: Path) -> None:
    write_scripts(tmp_path, ["stage"], Wanted(nodes=2, processes=4), tmp_path / "spec.json")
    task = (tmp_path / "task.sh").read_text()
    assert "--nnodes=2 --nproc-per-node=4" in task
    assert "--node-rank=$SLURM_NODEID --master-addr=$SLURM_LAUNCH_NODE_IPADDR" in task
    assert "OMP_NUM_THREADS" not in task  # the stage counts the cores that it is given
    write_scripts(tmp_path, ["stage"], Wanted(threads=6, processes=2), tmp_path / "spec.json")
    assert "OMP_NUM_THREADS=3" in (tmp_path / "task.sh").read_text()


def ran(folder: Path, compute: Compute) -> Outcome:
    """The outcome of a stage, run by an asset as all stages are."""
    spec = StageSpec("actor_sft", "ours", {}, {}, str(folder), str(folder), str(folder / "result"))
    got: list[Outcome] = []

    @dg.asset
    def staged(context: dg.AssetExecutionContext, compute: Compute) -> None:
        got.append(compute.run_stage(context, spec, folder / "spec.json")[0])

    dg.materialize([staged], resources={"compute": compute})
    return got[0]
