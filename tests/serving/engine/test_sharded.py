"""DeepSpeed's ranks as an engine: what they write, and what becomes of it when one is lost."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import torch
from click.testing import CliRunner

from chatllama_pipeline.cli.serving.serve import serve
from chatllama_pipeline.errors import EngineError
from chatllama_pipeline.serving.engine import sharded
from chatllama_pipeline.serving.engine.opening import written
from chatllama_pipeline.serving.engine.sharded import ShardedEngine, Shards
from chatllama_pipeline.serving.engine.ways import Opened, Way, open_release
from chatllama_pipeline.serving.loaded import load_outline
from chatllama_pipeline.store.manifests import Version
from chatllama_pipeline.store.versions import Store
from tests.serving.engine.test_ways import assert_as_generate, job, together
from tests.serving.served import NAME
from tests.waiting import PATIENCE, wait_until

Released = tuple[Store, Version, Version]


@pytest.fixture(scope="module")
def pair(released: Released, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Opened]:
    """The first release, which two ranks share."""
    with pytest.MonkeyPatch.context() as patch:
        # What nobody builds stands nowhere.
        builds = tmp_path_factory.mktemp("builds")
        patch.setenv("TORCH_EXTENSIONS_DIR", str(builds))
        opened = open_release(released[1].path, 2, Way("deepspeed", processes=2))
    yield opened
    opened[1].close()
    assert list(builds.iterdir()) == []


def ranks() -> list[psutil.Process]:
    found = psutil.Process().children(recursive=True)
    return [one for one in found if sharded.RANKS in " ".join(one.cmdline())]


@pytest.mark.slow
def test_two_ranks_write_what_generate_does_and_build_nothing(
    pair: Opened, released: Released
) -> None:
    assert len(ranks()) == 2 and "2 process" in pair[1].name
    assert_as_generate(pair, released[1].path)


@pytest.mark.slow
def test_a_seeds_reply_is_the_same_and_one_that_is_cancelled_leaves_its_place(pair: Opened) -> None:
    engine = pair[1]

    async def leave() -> None:
        async with contextlib.aclosing(written(engine, job([5], 100))) as steps:
            await anext(steps)

    async def leave_often() -> None:
        await asyncio.gather(*(leave() for _ in range(4)))

    asyncio.run(asyncio.wait_for(leave_often(), PATIENCE))
    warm = job([5, 6, 7], 12, temperature=1.5, seed=3)
    [one], [again] = together(engine, [warm]), together(engine, [warm])
    assert one.ids == again.ids and len(one.ids) == 12


@pytest.mark.slow
def test_a_lost_rank_ends_the_replies_and_the_others_with_the_reason(released: Released) -> None:
    others = ranks()
    _, engine = open_release(released[1].path, 2, Way("deepspeed", processes=2))
    own = [one for one in ranks() if one not in others]

    async def ask() -> str:
        async with contextlib.aclosing(written(engine, job([5], 100))) as steps:
            await anext(steps)
            last = next(one for one in own if one.environ()["RANK"] == "1")
            os.kill(last.pid, signal.SIGKILL)
            return [step async for step in steps][-1].error

    try:
        assert "DeepSpeed's processes ended" in asyncio.run(asyncio.wait_for(ask(), PATIENCE))
        with pytest.raises(EngineError, match="DeepSpeed's processes ended"):
            together(engine, [job([5])])
    finally:
        engine.close()
    wait_until(lambda: not any(one.is_running() for one in own))


@pytest.mark.slow
@pytest.mark.skipif(Path("/usr/include/libaio.h").exists(), reason="libaio is here")
def test_files_without_what_reads_them_are_refused_with_the_cure(
    released: Released, tmp_path: Path
) -> None:
    with pytest.raises(EngineError, match=r"--nvme: .* apt-get install libaio-dev"):
        open_release(released[1].path, 2, Way("deepspeed", nvme=tmp_path))


def test_ranks_that_cannot_load_say_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # A rank that takes no second to import what it needs.
    (tmp_path / "refusing.py").write_text(
        "import json, socket, sys\n"
        "line = socket.socket(fileno=int(sys.argv[3]))\n"
        "line.sendall(json.dumps({'refused': 'no libaio'}).encode() + b'\\n')\n"
    )
    (tmp_path / "falling.py").write_text("raise RuntimeError('CUDA out of memory')\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    shards = Shards("here", 2, 64, 0, "cpu", "cpu")
    for module, told in (("refusing", "no libaio"), ("falling", "ended: .*CUDA out of memory")):
        monkeypatch.setattr(sharded, "RANKS", module)
        with pytest.raises(EngineError, match=f"(?s){told}"):
            ShardedEngine(shards, 1)


def test_weights_stand_on_the_gpus_where_they_leave_room_and_else_in_main_memory(
    released: Released, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    folder, outline = released[1].path, load_outline(released[1].path)

    def found(processes: int | None = None, nvme: Path | None = None) -> tuple[str, str, int]:
        shards, ranks = sharded.shards_of(folder, outline, 4, processes, nvme)
        return shards.device, shards.held, ranks

    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    assert found() == ("cpu", "cpu", 1) and found(3) == ("cpu", "cpu", 3)
    assert found(nvme=tmp_path) == ("cpu", "nvme", 1)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(sharded, "free_bytes", lambda device: 10**9)
    assert found() == ("cuda", "gpu", 2)
    monkeypatch.setattr(sharded, "free_bytes", lambda device: 10)
    assert found(1) == ("cuda", "cpu", 1)
    with pytest.raises(EngineError, match=r"--processes 3: 2 GPU\(s\) stand here"):
        found(3)


def test_what_is_deepspeeds_alone_is_refused_with_other_engines(tmp_path: Path) -> None:
    for option in (["--processes", "2"], ["--nvme", str(tmp_path)]):
        result = CliRunner().invoke(serve, [NAME, *option])
        assert "go with --engine deepspeed alone" in result.output
