"""torchrun over two hosts of this machine, by the rendezvous of all launchers."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from chatllama_pipeline.errors import StoppedError
from chatllama_pipeline.launch.child import tail
from chatllama_pipeline.launch.jobs.scheduler import Request
from chatllama_pipeline.launch.stages import stage_error
from chatllama_pipeline.records import Outcome
from tests.cluster.held import Hold
from tests.cluster.losses import STAGES, Alone, trial
from tests.cluster.machines.hosts import Hosts, Part, Refused
from tests.cluster.ordeals import AMID, newest_state, steps_gone_on_after
from tests.waiting import wait_until

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
def test_two_hosts_bear_a_stop_and_a_lost_host_and_learn_what_one_process_learns(
    hosts: Hosts, tmp_path: Path, alone: Alone, stage: str
) -> None:
    spec = trial(stage).spec(alone.inputs, tmp_path / "hosts")
    request, result = Request(nodes=2, threads=1), Path(spec.result)
    hold = Hold(Path(spec.run_folder))
    stopped, lost, least = AMID[stage]

    def ended(parts: list[Part]) -> list[int]:
        wait_until(lambda: all(part.is_over() for part in parts))
        assert hosts.at_work() == []
        return [part.process.returncode for part in parts]

    def held(parts: list[Part]) -> None:
        wait_until(lambda: hold.waits() or any(part.is_over() for part in parts))
        assert hold.waits(), [tail(part.log) for part in parts]

    hold.after(stopped)
    with hosts.training(spec, request) as parts:
        held(parts)
        for part in parts:
            part.stop()
        assert 0 not in ended(parts)
    assert isinstance(stage_error(result), StoppedError)
    assert newest_state(spec) == stopped

    hold.after(lost)
    with hosts.training(spec, request) as parts:
        held(parts)
        parts[1].lose()
        hold.release()
        assert 0 not in ended(parts)
    assert not result.exists()

    with hosts.training(spec, request) as parts:
        assert ended(parts) == [0, 0], [tail(part.log) for part in parts]
    continued = steps_gone_on_after(parts[0].log)
    assert continued[0] == stopped
    assert least <= continued[-1] <= lost
    alone.assert_same(stage, Outcome.read(result))
