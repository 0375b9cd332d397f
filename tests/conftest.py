"""Threads are capped before anything imports torch; tiny real models and tables for all tests."""

from __future__ import annotations

import gc
import os
import signal
import sys

os.environ.update(
    PYTHONDONTWRITEBYTECODE="",
    OMP_NUM_THREADS="1",
    OMP_WAIT_POLICY="PASSIVE",
    TOKENIZERS_PARALLELISM="false",
    HF_HUB_OFFLINE="1",
)

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from chatllama_pipeline.lineage.assets import ASSETS
from chatllama_pipeline.records import StageSpec
from chatllama_pipeline.settings import AssistantSettings

if TYPE_CHECKING:
    from tests.llm.loopback.server import OpenAiServer

TINY_WORDS = "alpha bravo charlie delta echo foxtrot golf hotel india juliet kilo lima"


def pytest_configure() -> None:
    # What the environment says was read at the start. Compiling the tests anew takes a while.
    sys.dont_write_bytecode = False
    # Tests may run in the background, where a shell has them ignore interrupts. What they start
    # would too, and Dagster hands that on to SIGTERM.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_finish() -> None:
    # Each training collects garbage, for half a second where all that is imported is looked at.
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def _own_leases(tmp_path_factory: pytest.TempPathFactory) -> None:
    """What else runs on this machine takes no core away, so that figures are those of before."""
    os.environ["CHATLLAMA_LEASES"] = str(tmp_path_factory.mktemp("leases"))


@pytest.fixture(scope="session")
def running_server() -> Iterator[OpenAiServer]:
    """A server on loopback that speaks the OpenAI API; who uses it resets it."""
    from tests.llm.loopback.server import OpenAiServer

    yield from OpenAiServer.running()


@pytest.fixture(scope="session")
def tiny_base_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A two-layer random Llama (hidden 32, 300 ids) with a byte-level BPE and our chat template."""
    from chatllama_pipeline.models.bases.scratch import ScratchSize, make_scratch_model

    folder = tmp_path_factory.mktemp("tiny_base")
    size = ScratchSize(hidden_size=32, layers=2, heads=2, vocabulary=300, max_length=128)
    make_scratch_model([TINY_WORDS] * 8, size, seed=0, folder=folder)
    return folder


@pytest.fixture(scope="session")
def tiny_gguf(tiny_base_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model of `tiny_base_folder` as the file `tiny.gguf`, in float32."""
    from tests.models.gguf_files import write_gguf

    return write_gguf(tiny_base_folder, tmp_path_factory.mktemp("gguf") / "tiny.gguf")


@pytest.fixture(scope="session")
def write_table() -> Callable[[Path, list[dict[str, Any]], pa.Schema], Path]:
    """Writes rows as `data.parquet` into a folder, under the given schema; returns the folder."""

    def write(folder: Path, rows: list[dict[str, Any]], schema: pa.Schema) -> Path:
        folder.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.Table.from_pylist(rows, schema=schema), folder / "data.parquet")
        return folder

    return write


@pytest.fixture
def make_spec(tmp_path: Path) -> Callable[..., StageSpec]:
    """A stage's spec with empty `output` and its own `run` folder; `take` tells runs apart."""

    def make(
        stage: str, settings: dict[str, Any], inputs: dict[str, Path], take: str = "a"
    ) -> StageSpec:
        output = tmp_path / f"{stage}_{take}"
        output.mkdir()
        asset = ASSETS[stage]
        return StageSpec(
            stage=stage,
            assistant="tiny",
            settings=settings,
            inputs={name: str(folder) for name, folder in inputs.items()},
            output=str(output),
            run_folder=str(tmp_path / f"{stage}_{take}_run"),
            result=str(tmp_path / f"{stage}_{take}.json"),
            made_from=asset.made_from(AssistantSettings.model_validate(settings)),
            readable=asset.readable,
        )

    return make
