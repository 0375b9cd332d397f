"""An optimizer's moments by the names of its parameters; what two layouts have in common."""

from __future__ import annotations

import copy
import importlib
import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from chatllama_pipeline.errors import StoreError
from chatllama_pipeline.launch.hidden import reveal
from chatllama_pipeline.models.memory.means import Means
from chatllama_pipeline.settings.deepspeed_config import DeepSpeedPlan
from chatllama_pipeline.training.resume.moments import (
    Moments,
    into_plain,
    into_shards,
    of_plain,
    of_shards,
)
from chatllama_pipeline.training.resume.snapshot import (
    OPTIMIZER,
    Engine,
    Layout,
    Snapshot,
    _random_state,
    require_layout,
)

PLAIN, SHARDED = Layout(1, None), Layout(2, 3)


def model_and_optimizer(turned: bool = False) -> tuple[nn.Module, torch.optim.AdamW]:
    """Two layers, each a group of its own."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 5), nn.Linear(5, 2))
    groups = [{"params": list(layer.parameters())} for layer in model]
    return model, torch.optim.AdamW(groups[::-1] if turned else groups, lr=0.1)


def learn(model: nn.Module, optimizer: torch.optim.AdamW, steps: int) -> None:
    for _ in range(steps):
        model(torch.ones(4, 3)).square().sum().backward()
        optimizer.step()
        optimizer.zero_grad()


def named(model: nn.Module, optimizer: torch.optim.AdamW) -> tuple[dict[int, str], list[str]]:
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    return names, [names[id(p)] for group in optimizer.param_groups for p in group["params"]]


def test_moments_find_their_parameters_by_name_whatever_their_order() -> None:
    model, optimizer = model_and_optimizer()
    learn(model, optimizer, 5)
    weights = {name: p.detach().clone() for name, p in model.named_parameters()}
    moments = of_plain(optimizer.state_dict(), named(model, optimizer)[1], weights)
    assert moments.steps == 5

    other, fresh = model_and_optimizer(turned=True)
    into_plain(moments, fresh, named(other, fresh)[0])
    learn(model, optimizer, 3)
    learn(other, fresh, 3)
    for name, weight in model.named_parameters():
        assert torch.equal(other.get_parameter(name), weight), name


def test_a_parameter_that_never_learned_begins_without_moments() -> None:
    model, optimizer = model_and_optimizer()
    model[0].requires_grad_(False)
    learn(model, optimizer, 2)
    weights = {name: p.detach().clone() for name, p in model.named_parameters()}
    moments = of_plain(optimizer.state_dict(), named(model, optimizer)[1], weights)
    other, fresh = model_and_optimizer()
    into_plain(moments, fresh, named(other, fresh)[0])
    assert {len(fresh.state[p]) for p in other[0].parameters()} == {0}
    assert {len(fresh.state[p]) for p in other[1].parameters()} == {3}


def test_what_deepspeed_holds_otherwise_is_refused_by_its_name(tmp_path: Path) -> None:
    odd = {"base_optimizer_state": [], "param_slice_mappings": [{}]}
    file = tmp_path / "zero_pp_rank_0_mp_rank_00_optim_states.pt"
    torch.save({"optimizer_state_dict": odd}, file)
    with pytest.raises(StoreError, match=f"{file} holds AdamW's moments otherwise"):
        of_shards(tmp_path)
    of_none_of_its_stages: Any = nn.Module()
    of_none_of_its_stages.optimizer = model_and_optimizer()[1]
    with pytest.raises(StoreError, match="DeepSpeed's Module takes up nothing"):
        into_shards(Moments(), of_none_of_its_stages, {})


def test_a_library_that_was_hidden_is_found_again_once_it_is_needed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "colorsys", None)
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module("colorsys")
    reveal("colorsys")
    found = importlib.import_module("colorsys")
    reveal("colorsys")  # is what it was
    assert sys.modules["colorsys"] is found


@pytest.mark.parametrize(
    ("before", "after", "order"),
    [
        (Layout(2, 3, in_files=True), PLAIN, []),
        (Layout(2, 3, in_files=True), Layout(4, 3, in_files=True), []),
        (PLAIN, Layout(2, 3, in_files=True), ["weight"]),
        (SHARDED, Layout(2, 3, in_files=True), []),
        (PLAIN, SHARDED, []),
    ],
)
def test_a_layout_that_cannot_take_up_a_state_leaves_it_and_says_which_can(
    tmp_path: Path, before: Layout, after: Layout, order: list[str]
) -> None:
    found = Snapshot(tmp_path / "state" / "00000001", {}, before, order)
    with pytest.raises(StoreError) as refused:
        found.continued_in(after)
    told = str(refused.value)
    for said in (f"saved by {before}", f"{after} can't go on from it", f"continue with {before}"):
        assert said in told
    assert f"remove {tmp_path / 'state'} to train from the start" in told


def test_a_layout_is_refused_before_anything_is_loaded(tmp_path: Path) -> None:
    state = tmp_path / "state" / "00000001"
    state.mkdir(parents=True)
    require_layout(tmp_path, PLAIN)  # a state that wasn't committed is none
    state.with_suffix(".json").write_text("{}")
    require_layout(tmp_path, PLAIN)  # what can't be read is told where it is loaded
    before = Layout(2, 3, in_files=True)
    counts = {"counts": {"step": 7}, "layout": vars(before), "order": []}
    (state / "counts.json").write_text(json.dumps(counts))
    require_layout(tmp_path, before)
    with pytest.raises(StoreError, match=r"can't go on from it: continue with 2 .*zero_stage"):
        require_layout(tmp_path, PLAIN)


@pytest.mark.parametrize(
    ("before", "after"), [(SHARDED, PLAIN), (PLAIN, SHARDED), (SHARDED, Layout(4, 2)),
                          (PLAIN, Layout(3, None))],
)  # fmt: skip
def test_another_layout_goes_on_and_says_what_differs(before: Layout, after: Layout) -> None:
    found = Snapshot(Path("state"), {}, before, ["weight"])
    assert found.continued_in(copy.copy(before)) is None
    told = found.continued_in(after)
    assert told is not None
    for said in (str(before), str(after), "rounded in another order", "dropout"):
        assert said in told


def test_a_layout_knows_of_an_optimizer_in_files() -> None:
    for device, in_files in (("nvme", True), ("cpu", False)):
        zero = {"stage": 3, "offload_optimizer": {"device": device}}
        means = Means(processes=2, deepspeed=DeepSpeedPlan({"zero_optimization": zero}))
        assert Layout.of(means) == Layout(2, 3, in_files)
    # At stage 0 DeepSpeed has no part in this.
    means = Means(deepspeed=DeepSpeedPlan({"zero_optimization": {**zero, "stage": 0}}))
    assert Layout.of(means) == PLAIN


def test_a_rate_comes_back_where_a_group_without_weights_was_left_out(tmp_path: Path) -> None:
    whole = model_and_optimizer()[1]
    halved = torch.optim.lr_scheduler.LambdaLR(whole, lambda step: 0.5**step)
    whole.step()
    halved.step()
    # Of the groups that the scheduler knows DeepSpeed keeps those that hold weights.
    model = nn.Linear(3, 5)
    kept = torch.optim.AdamW(model.parameters(), lr=0.1)
    torch.save(kept.state_dict(), tmp_path / OPTIMIZER)
    torch.save(halved.state_dict(), tmp_path / "scheduler.pt")
    torch.save(_random_state(), tmp_path / "random_0.pt")
    fresh = torch.optim.lr_scheduler.LambdaLR(model_and_optimizer()[1], lambda step: 0.5**step)
    process: Any = SimpleNamespace(process_index=0)
    for known in (fresh, torch.optim.lr_scheduler.LambdaLR(kept, lambda step: 0.5**step)):
        kept.param_groups[0]["lr"] = 0.1
        Engine(process, model, model, kept, PLAIN, known).restore(Snapshot(tmp_path, {}, PLAIN))
        assert [group["lr"] for group in kept.param_groups] == [0.05]
        known.optimizer.step()
        known.step()
        assert known.get_last_lr() == [0.025] * len(known.optimizer.param_groups)
