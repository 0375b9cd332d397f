"""`CHATLLAMA_COMPUTE`: what every run of a machine takes for granted."""

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import dagster as dg
import pytest

from chatllama_pipeline.errors import SettingsError
from chatllama_pipeline.launch.jobs.node_script import node_script
from chatllama_pipeline.launch.jobs.running import JOB_FILE
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
        ("slurm: {queue: a100}", r"unknown key 'slurm.queue'; those there are: gpus, .*partition"),
        ("slurm: {time_limit: 12:00:00}", "slurm.time_limit: .* put it into quotes"),
        ("slurm: a100", "slurm must hold keys and values"),
        ("ray: {adress: auto}", r"unknown key 'ray.adress'; those there are: .*address"),
        ("ray: {resources: [a100]}", "ray.resources: Input should be a valid dictionary"),
        ("kubernetes: {immage: a}", r"unknown key 'kubernetes.immage'; those there are: .*image"),
        ("kubernetes: {pod: [a]}", "kubernetes.pod: Input should be a valid dictionary"),
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
    page = (Path(__file__).parents[2] / "docs" / "running" / "cluster.md").read_text()
    written.write_text(page.split("```text\n")[1].split("```")[0])
    made = compute_here()
    assert made.slurm.request(made.nodes, made.processes, made.threads).time_limit == "12:00:00"
    written.write_text(page.split("```text\n")[2].split("```")[0])
    made = compute_here()
    assert made.launcher == "ray"
    assert made.ray.request(made.nodes, made.processes, made.threads).of_each_node == {
        "CPU": 32,
        "GPU": 4,
        "memory": 400 * 2**30,
    }
    written.write_text(page.split("```text\n")[3].split("```")[0])
    made = compute_here()
    asked = made.kubernetes.request(made.nodes, made.processes, made.threads)
    assert asked.of_each_node == {"cpu": "32", "memory": "400Gi", "nvidia.com/gpu": "4"}
    assert asked.claim == "chatllama"


def test_a_file_that_is_not_there_is_told(written: Path) -> None:
    with pytest.raises(SettingsError, match=r"compute.yaml can't be read"):
        compute_here()


def slurm(**changes: object) -> dict[str, object]:
    """What a run says of a cluster of Slurm."""
    return {"launcher": "slurm", "slurm": changes}


def kubernetes(**changes: object) -> dict[str, object]:
    """What a run says of a cluster of Kubernetes."""
    return {"launcher": "kubernetes", "kubernetes": {"image": "ours:1", **changes}}


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"launcher": "pbs"}, "compute.launcher is 'pbs': use one of local, slurm, ray, kube"),
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
        ({"stop_seconds": -1.0}, "compute.stop_seconds is -1: use 0 or more"),
        ({"stop_seconds": float("nan")}, "compute.stop_seconds is nan: use 0 or more"),
        ({"gpu_wait_seconds": float("nan")}, "compute.gpu_wait_seconds is nan: use 0 or more"),
        ({"processes": 0}, "compute.processes is 0: use 1 or more"),
        ({"threads": -2}, "compute.threads is -2: use 0 or more"),
        ({"launcher": "Slurm"}, "compute.launcher is 'Slurm': use one of local, slurm"),
        ({"launcher": ""}, "compute.launcher is '': use one of local, slurm"),
        (slurm(queue_minutes=float("nan")), "slurm.queue_minutes is nan: use more than 0"),
        (slurm(memory="4 gigs"), "compute.slurm.memory is '4 gigs': use a size such as 64G"),
        (slurm(memory="64Gi"), "compute.slurm.memory is '64Gi': use a size such as 64G"),
        (slurm(time_limit="12h"), "compute.slurm.time_limit is '12h': use HOURS:MINUTES:SECONDS"),
        (slurm(time_limit="1 day"), "compute.slurm.time_limit is '1 day': use HOURS"),
        (slurm(time_limit="1d-0"), "compute.slurm.time_limit is '1d-0': use HOURS"),
        (slurm(partition=" "), "compute.slurm.partition is ' ': use a name as `sinfo`"),
        (slurm(partition="a100 "), "compute.slurm.partition is 'a100 ': use a name"),
        (slurm(account="a=b"), "compute.slurm.account is 'a=b': use a name"),
        (slurm(gpus=-1), "compute.slurm.gpus is -1: use 0 or more"),
        (slurm(arguments=["--constraint a100"]), "write each with its value as one"),
        (slurm(arguments=["a100"]), "'a100' is no option of sbatch by itself"),
        (slurm(arguments=["--array=1-4"]), "'--array=1-4': a job says it by itself: leave it out"),
        (slurm(arguments=["-o/tmp/log"]), "'-o/tmp/log': a job says it by itself"),
        (slurm(arguments=["--export=NONE"]), "'--export=NONE': a job says it by itself"),
        (slurm(arguments=["--mem=4G"]), "'--mem=4G': say it as compute.slurm.memory"),
        (slurm(arguments=["-N2"]), "'-N2': say it as compute.nodes"),
        (slurm(arguments=["--time=5"]), "'--time=5': say it as compute.slurm.time_limit"),
        ({"launcher": "slurm", "slurm": {"queue_minutes": 0}}, "queue_minutes is 0: use more"),
        ({"launcher": "ray", "nodes": 0}, "compute.nodes is 0: use 1 or more"),
        ({"launcher": "ray", "device": "cuda"}, "'cuda', but compute.ray.gpus is 0"),
        ({"launcher": "ray", "processes": 4, "ray": {"gpus": 2}}, "compute.ray.gpus 2: each"),
        (
            {"launcher": "ray", "ray": {"memory": "much"}},
            "compute.ray.memory is 'much': use a size",
        ),
        ({"launcher": "ray", "ray": {"retries": -1}}, "compute.ray.retries is -1: use 0 or more"),
        ({"launcher": "ray", "ray": {"resources": {"GPU": 1}}}, "resources.GPU: say it as"),
        ({"launcher": "ray", "ray": {"resources": {"tpu": 0}}}, "resources.tpu is 0.0: use more"),
        ({"launcher": "ray", "ray": {"address": "ray://head:10001"}}, "use the HOST:PORT that"),
        ({"launcher": "ray", "ray": {"address": "head"}}, "compute.ray.address is 'head': use"),
        (
            {"launcher": "ray", "ray": {"resources": {"tpu": float("inf")}}},
            "resources.tpu is inf: use more than 0",
        ),
        ({"launcher": "ray", "ray": {"memory": "4 gigs"}}, "compute.ray.memory is '4 gigs': use a"),
        ({"launcher": "ray", "ray": {"address": "10.0.0.1"}}, "'10.0.0.1': use the HOST:PORT"),
        ({"launcher": "ray", "ray": {"address": ""}}, "compute.ray.address is '': use the HOST"),
        ({"launcher": "ray", "ray": {"gpus": -4}}, "compute.ray.gpus is -4: use 0 or more"),
        ({"launcher": "kubernetes"}, "compute.kubernetes.image is empty: name the image"),
        (kubernetes(image="Ours:1"), "image is 'Ours:1', which is no image's name"),
        (kubernetes(image="https://registry.test/a:1"), "which is no image's name: name the"),
        (kubernetes(image="ours: 1"), "image is 'ours: 1', which is no image's name"),
        (kubernetes(namespace="My Space"), "namespace is 'My Space', which is nothing's name"),
        (kubernetes(claim="my_claim"), "claim is 'my_claim', which is nothing's name"),
        ({**kubernetes(service=""), "nodes": 2}, "service is '', which is nothing's name"),
        (kubernetes(secrets=["keys", ""]), "secrets is '', which is nothing's name"),
        (kubernetes(time_limit_minutes=float("nan")), "time_limit_minutes is nan: use 0 or more"),
        (kubernetes(time_limit_minutes=float("inf")), "time_limit_minutes is inf: use 0 or more"),
        (kubernetes(memory="4 gigs"), "kubernetes.memory is '4 gigs': use a size such as 64Gi"),
        (
            kubernetes(claim="a", mount_path="srv"),
            "compute.kubernetes.mount_path is 'srv': say at which path",
        ),
        (
            kubernetes(claim="a", mount_path="/srv", pod={"restartPolicy": "Always"}),
            "compute.kubernetes.pod.restartPolicy can't be set there",
        ),
        (kubernetes(), "compute.kubernetes.claim is empty: name the PersistentVolumeClaim"),
        (kubernetes(claim="a"), "compute.kubernetes.mount_path is '': say at which path"),
        (kubernetes(gpus=-1), "compute.kubernetes.gpus is -1: use 0 or more"),
        (kubernetes(retries=-1), "compute.kubernetes.retries is -1: use 0 or more"),
        (kubernetes(time_limit_minutes=-5.0), "time_limit_minutes is -5: use 0 or more"),
        (kubernetes(memory="64GB"), "compute.kubernetes.memory is '64GB': use a size such as 64Gi"),
        (kubernetes(memory="0"), "compute.kubernetes.memory is '0': use a size"),
        ({**kubernetes(), "device": "cuda"}, "'cuda', but compute.kubernetes.gpus is 0"),
        ({**kubernetes(), "nodes": 0}, "compute.nodes is 0: use 1 or more"),
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


@pytest.mark.parametrize(
    ("library", "asked", "told"),
    [
        ("ray", {"launcher": "ray"}, r"Ray is not installed here: .*\.\[ray\]"),
        (
            "kubernetes",
            kubernetes(claim="a", mount_path="/"),
            r"its client is not installed here: .*\.\[kubernetes\]",
        ),
    ],
)
def test_a_machine_without_the_launchers_library_is_told_before_anything_starts(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    library: str,
    asked: dict[str, object],
    told: str,
) -> None:
    real = importlib.util.find_spec
    monkeypatch.setattr(
        "importlib.util.find_spec", lambda name: None if name == library else real(name)
    )
    with pytest.raises(SettingsError, match=told):
        ran(tmp_path, Compute(**asked))  # type: ignore[arg-type]


def test_nothing_of_a_launcher_is_imported_unless_asked_for() -> None:
    program = (
        "import sys, chatllama_pipeline.definitions, chatllama_pipeline.launch.ray.scheduler;"
        "import chatllama_pipeline.launch.kubernetes.scheduler;"
        "sys.exit(bool({'ray', 'kubernetes'} & sys.modules.keys()))"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def test_work_that_a_job_may_do_still_is_not_started_here(tmp_path: Path) -> None:
    (tmp_path / JOB_FILE).write_text('{"launcher": "ray", "name": "one", "id": "one", "spec": ""}')
    others = kubernetes(claim="a", mount_path="/")
    for asked in ({"launcher": "local"}, {"launcher": "slurm"}, others):
        with pytest.raises(SettingsError, match=r"the job one of launcher 'ray'.*job.json"):
            ran(tmp_path, Compute(**asked))  # type: ignore[arg-type]


def test_a_node_without_the_project_or_the_store_says_so(tmp_path: Path) -> None:
    script = tmp_path / "task.sh"
    for python, told in (("/no/python", 'has no "?/no/python'), (sys.executable, "does not see")):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("chatllama_pipeline.launch.jobs.node_script.PYTHON", python)
            script.write_text(node_script("true", 1, tmp_path / "absent.json"))
        done = subprocess.run(["bash", script], capture_output=True, text=True, check=False)
        assert done.returncode in (66, 127)
        assert re.search(told, done.stderr)


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
