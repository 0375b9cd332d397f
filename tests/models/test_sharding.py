"""Weights in parts: what is read of a file, and what two processes have of the models they load."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from chatllama_pipeline.launch.child import child_environment
from chatllama_pipeline.models.sharding.files import stored_in
from chatllama_pipeline.models.sharding.parts import in_turn, is_in_parts, whole, whole_shape
from tests.models.ranks import ROLES, write_large

RANKS = Path(__file__).parent / "ranks.py"


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_part_of_a_tensor_is_read_without_the_rest(tmp_path: Path, dtype: torch.dtype) -> None:
    table = torch.arange(35, dtype=torch.float32).view(5, 7).to(dtype)
    other = torch.ones(3, dtype=torch.long)
    save_file({"a": torch.ones(4), "b": table, "ids": other}, tmp_path / "model.safetensors")
    found = stored_in(tmp_path)
    assert found.keys() == {"a", "b"}  # whole numbers are no weights
    assert found["b"].shape == (5, 7)
    assert found["b"].read(5, 24).tolist() == table.flatten()[5:24].tolist()
    assert torch.equal(found["b"].read().view(5, 7), table)


def test_what_nobody_shares_out_is_as_it_is() -> None:
    model = torch.nn.Sequential(torch.nn.Linear(2, 3))
    assert not is_in_parts(model)
    assert whole_shape(model[0].weight) == (3, 2)
    with whole(model.parameters()), in_turn(model):
        assert torch.is_grad_enabled()
        assert model(torch.ones(1, 2)).requires_grad


def found_by_two(folder: Path, *arguments: str) -> list[dict[str, float]]:
    """What each of two processes of `ranks.py` found."""
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    environment = {**os.environ, **child_environment(1), "DS_ACCELERATOR": "cpu"}
    done = subprocess.run(
        [*launch, str(RANKS), str(folder), *arguments],
        env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(2)]


@pytest.mark.slow
def test_two_processes_load_parts_of_every_kind_of_model_and_they_are_the_whole(
    tmp_path: Path,
) -> None:
    for found in found_by_two(tmp_path):
        assert found.keys() == {
            "tied", "untied in bfloat16", "scoring, fresh head", "scoring, stored head",
            "encoder-decoder", "experts", "adapter", *ROLES,
        }  # fmt: skip
        for name, difference in found.items():
            assert difference == pytest.approx(0, abs=1e-6), name


@pytest.mark.slow
def test_no_process_ever_has_much_more_than_its_part(tmp_path: Path) -> None:
    write_large(tmp_path)
    for found in found_by_two(tmp_path, "--peak"):
        for name in ("actor", "ppo"):
            assert 0.45 < found[name] < 1 / 2 + 0.15, name
