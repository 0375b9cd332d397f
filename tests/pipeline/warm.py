"""One warm parent for the runs of a test's process, as a run has one for its stages."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from unittest.mock import patch

from chatllama_pipeline.launch import forks
from chatllama_pipeline.launch.forks import WarmParent, WarmStart
from chatllama_pipeline.records import StageSpec

# What tells places and tests apart. A fork has all of it from its own run.
OF_A_PLACE = ("CHATLLAMA_", "DAGSTER_", "PYTEST_", "NETWORK_ATTEMPTS", "GUARDED_PROCESSES")
_shared = WarmStart()


class _OfAnyRun(WarmStart):
    """Hands on what the runs share, and leaves it to the next at the end of one."""

    def parent(
        self, command: Sequence[str], spec: StageSpec, spec_path: Path, env: Mapping[str, str]
    ) -> WarmParent | None:
        if self._given_up:
            return None
        like = {name: value for name, value in env.items() if not name.startswith(OF_A_PLACE)}
        return _shared.parent(command, spec, spec_path, like)

    def give_up(self) -> None:
        _shared.close()
        super().give_up()


@contextlib.contextmanager
def shared_warm_parent() -> Iterator[None]:
    """Of a run of seconds its warm parent's imports would be the longest part.

    Runs by the command line have one of their own.
    """
    with patch.object(forks, "WarmStart", _OfAnyRun):
        yield
