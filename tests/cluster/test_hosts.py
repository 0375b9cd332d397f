"""torchrun over two hosts of this machine, by the rendezvous of all launchers."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from chatllama_pipeline.launch.jobs.scheduler import Request
from tests.cluster.hosts import Hosts, Refused
from tests.cluster.losses import STAGES, Alone, trial

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def hosts() -> Iterator[Hosts]:
    made = Hosts()
    try:
        made.start()
        yield made
    except Refused as error:
        pytest.skip(f"no network namespaces here: {error}")
    finally:
        made.stop()


@pytest.mark.parametrize("stage", STAGES)
def test_two_hosts_learn_what_one_process_learns(
    hosts: Hosts, tmp_path: Path, alone: Alone, stage: str
) -> None:
    spec = trial(stage).spec(alone.inputs, tmp_path / "hosts")
    alone.assert_same(stage, hosts.train(spec, Request(nodes=2, threads=1)))
