"""The KTO stage: its loss against trl's, its KL, what it learns, its resume, its refusals."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file

from chatllama_pipeline.errors import DataError
from chatllama_pipeline.models.chat.template import Example
from chatllama_pipeline.models.heads import load_actor
from chatllama_pipeline.models.loading import load_tokenizer
from chatllama_pipeline.models.memory.means import Means
from chatllama_pipeline.models.memory.plan import memory_plan
from chatllama_pipeline.schemas import PREFERENCE_SCHEMA, THUMB_SCHEMA
from chatllama_pipeline.settings import AssistantSettings, KtoSettings
from chatllama_pipeline.training.course import OF_STEP
from chatllama_pipeline.training.kto.equations import losses
from chatllama_pipeline.training.kto.stage import gained_elsewhere, kto_loss_sum, run
from chatllama_pipeline.training.kto.thumbs import (
    all_nats,
    collate_thumbs,
    mismatched,
    read_thumbs,
    with_reference,
)
from tests.tiny import QUIET, WORDS, MakeSpec, pair, row
from tests.training.by_rows.improving import TRAINING, improved_by
from tests.training.resume.kills import assert_same_when_killed

KTO = {**TRAINING, "batch_size": 8}
SETTINGS = improved_by("kto", KTO)
WITH_ADAPTER = improved_by("kto", KTO, adapter=True)


def thumb(word: str, split: str, label: bool) -> dict[str, Any]:
    return row(word, split, completion=f"{word} {word}" if label else "zulu", label=label)


def folder_of(
    folder: Path, thumbs: list[dict[str, Any]] | None, pairs: list[dict[str, Any]] | None = None
) -> Path:
    """A version of preference_data; without `thumbs` there is no table of them."""
    folder.mkdir()
    told = pa.Table.from_pylist(pairs or [], schema=PREFERENCE_SCHEMA)
    pq.write_table(told, folder / "data.parquet")
    if thumbs is not None:
        table = pa.Table.from_pylist(thumbs, schema=THUMB_SCHEMA)
        pq.write_table(table, folder / "thumbs.parquet")
    return folder


@pytest.fixture(scope="session")
def rows_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight thumbs up, six down and one that is too long; two held-out ones of each kind."""
    rows = [thumb(word, "train", True) for word in WORDS]
    rows += [thumb(word, "train", False) for word in WORDS[:6]]
    rows += [
        thumb(word, "validation", label) for word in ("kilo", "lima") for label in (True, False)
    ]
    rows.append(thumb("x" * 99, "train", True))
    return folder_of(tmp_path_factory.mktemp("thumbs") / "a", rows)


# What trl 1.16.0's KTOTrainer._compute_loss gives for these log-probabilities (nats).
POLICY = torch.tensor([-4.0, -12.0, -1.0, -7.5, -3.25])
REFERENCE = torch.tensor([-5.0, -11.0, -1.0, -6.0, -4.0])
UP = torch.tensor([True, False, True, False, True])
ELSEWHERE = torch.tensor([0.5, 1.0, -0.25, 0.75, 0.5])


@pytest.mark.parametrize(
    ("sign", "beta", "desirable", "undesirable", "expected"),
    [
        (1, 0.1, 1.0, 1.0, 0.4812973141670227),
        (1, 0.3, 1.0, 1.5, 0.5193631052970886),
        (-1, 0.3, 0.75, 1.0, 0.3684151768684387),  # an estimate below 0 counts as 0
    ],
)
def test_the_loss_is_trls(
    sign: int, beta: float, desirable: float, undesirable: float, expected: float
) -> None:
    kl = (sign * ELSEWHERE).mean()
    found = losses(
        POLICY - REFERENCE, UP, kl, beta=beta, desirable=desirable, undesirable=undesirable
    )
    assert found.mean().item() == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(
    ("given", "weights"),
    [
        ({}, (1.0, 4.0)),
        ({"desirable_weight": 0.5}, (0.5, 2.0)),
        ({"undesirable_weight": 2.0}, (0.5, 2.0)),
        ({"desirable_weight": 1.0, "undesirable_weight": 1.0}, (1.0, 1.0)),
    ],
)
def test_both_kinds_of_thumbs_count_alike_unless_they_are_weighed(
    given: dict[str, float], weights: tuple[float, float]
) -> None:
    kto = KtoSettings(**given)
    assert kto.weights(80, 20) == pytest.approx(weights)
    assert KtoSettings().weights(20, 80) == pytest.approx((4.0, 1.0))


def test_replies_elsewhere_are_those_of_other_prompts_and_fit() -> None:
    rows = [
        Example([3, 10, 4, 20, 1], 3),
        Example([3, 10, 4, 21, 1], 3),
        Example([3, 11, 4, 22, 23, 24, 25, 26, 1], 3),
        Example([3, 12, 12, 12, 12, 4, 27, 1], 6),
    ]
    for seed in range(8):
        found = list(mismatched(rows, 9, seed))
        for own, other in zip(rows, found, strict=True):
            prompt = own.ids[: own.prompt_length]
            assert other.ids[: other.prompt_length] == prompt and len(other.ids) <= 9
            reply = other.ids[other.prompt_length :]
            theirs = [row for row in rows if row.ids[row.prompt_length :] == reply]
            assert theirs and all(row.ids[: row.prompt_length] != prompt for row in theirs)
    assert list(mismatched(rows[:2], 9, 0)) == rows[:2]  # nobody else asks
    assert list(mismatched(rows[:1], 9, 0)) == rows[:1]
    assert not list(mismatched([], 9, 0))


class Counted(list[Example]):
    """Rows that count how often one is looked at."""

    looks = 0

    def __getitem__(self, place: Any) -> Any:
        self.looks += 1
        return super().__getitem__(place)


def test_a_reply_elsewhere_is_looked_for_among_a_bounded_number_of_rows() -> None:
    rows = Counted(Example([3, 10, 4, n, 1], 3) for n in range(20, 220))
    assert list(mismatched(rows, 9, 0)) == rows
    assert rows.looks == 64 * len(rows)


def test_thumbs_are_the_same_where_memory_holds_few(
    tiny_base_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [pair(WORDS[n % 4], WORDS[n % 5], WORDS[n % 7]) for n in range(40)]
    pq.write_table(pa.Table.from_pylist(rows, PREFERENCE_SCHEMA), tmp_path / "data.parquet")
    tokenizer = load_tokenizer(tiny_base_folder)
    given = (tmp_path, tmp_path, tokenizer, "train", 64, 1)
    roomy = read_thumbs(*given)
    monkeypatch.setattr("chatllama_pipeline.data.spill.column.MOST_BYTES", 0)
    monkeypatch.setattr("chatllama_pipeline.data.spill.column.VALUES_AT_ONCE", 9)
    tight = read_thumbs(*given)
    assert list(tight.thumbs) == list(roomy.thumbs) and tight[1:] == roomy[1:]
    said: dict[tuple[str, str], set[str]] = {}
    for told in rows:
        for side in ("chosen", "rejected"):
            said.setdefault((told["prompt"][0]["content"], told[side]), set()).add(side)
    assert tight.contradicting == sum(len(sides) == 2 for sides in said.values()) > 0
    assert len(tight.thumbs) == sum(len(sides) == 1 for sides in said.values()) > 0


def test_the_gradient_is_that_of_the_replies_with_a_kl_that_is_no_variable(
    tiny_base_folder: Path, rows_folder: Path, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    model, tokenizer = load_actor(tiny_base_folder, torch.float32), load_tokenizer(tiny_base_folder)
    found = read_thumbs(rows_folder, tmp_path, tokenizer, "train", 64, seed=1)
    assert (len(found.thumbs), found.too_long, found.contradicting) == (14, 1, 0)
    thumbs = with_reference(tmp_path, model, found.thumbs, 0)
    with torch.no_grad():  # the policy has moved
        for weight in model.parameters():
            weight += 0.02 * torch.randn_like(weight)
    own, elsewhere = all_nats(model, thumbs, 0, "reads")
    log_ratio = own - torch.tensor([row.reference for row in thumbs])
    kl = (elsewhere - torch.tensor([row.reference_elsewhere for row in thumbs])).mean()
    assert kl.abs() > 1e-3
    up = torch.tensor([row.up for row in thumbs])

    def weighed(ratio: torch.Tensor, thumbs_up: torch.Tensor, point: torch.Tensor) -> torch.Tensor:
        return losses(ratio, thumbs_up, point, beta=0.5, desirable=1.0, undesirable=2.0)

    batch = collate_thumbs(thumbs, 0)
    weight = batch.pop("weight")
    batch[OF_STEP] = gained_elsewhere(model, batch).detach() / weight
    assert batch[OF_STEP].item() == pytest.approx(kl.item(), rel=1e-4)
    loss = kto_loss_sum(model, batch, weighed)
    assert loss.item() == pytest.approx(weighed(log_ratio, up, kl).sum().item(), rel=1e-4)
    gained = 0.5 * (log_ratio - kl.clamp(min=0))
    slope = gained.sigmoid() * (-gained).sigmoid() * 0.5  # of the value, by the log-ratio
    expected = torch.where(up, -slope, 2 * slope)
    ratios = log_ratio.clone().requires_grad_()
    weighed(ratios, up, kl).sum().backward()  # type: ignore[no-untyped-call]
    assert ratios.grad is not None
    assert ratios.grad.tolist() == pytest.approx(expected.tolist(), rel=1e-4)


@pytest.mark.parametrize("adapter", [False, True], ids=["whole", "lora"])
def test_thumbs_alone_teach_what_was_found_good(
    spec: MakeSpec, adapted_folder: Path, adapter: bool
) -> None:
    job = spec(settings=WITH_ADAPTER, actor_sft=adapted_folder) if adapter else spec()
    outcome = run(job, QUIET)
    curves = {curve.name: curve.points for curve in outcome.curves}
    # Before the first step the policy is the reference: every value is one half, and the eight
    # replies of a batch weigh 1 or 8 / 6.
    assert 0.5 <= curves["loss"][0][1] <= 0.5 * 8 / 6
    assert curves["validation_loss"][-1][1] < curves["validation_loss"][0][1]
    assert curves["validation_margin"][-1][1] > curves["validation_margin"][0][1] > 0
    assert "validation_kl" in curves
    assert [(check.name, check.passed) for check in outcome.checks] == [
        ("memory_plan", True),
        ("finite_loss", True),
        ("collapse", True),
        ("reward_cheats", True),
        ("reward_hacking", True),
    ]
    assert "kto writes no replies" in outcome.checks[2].description
    told = outcome.metrics
    assert (outcome.rows, told["thumbs_up"], told["thumbs_down"]) == (14, 8, 6)
    assert outcome.warnings[0].startswith("1 training and 0 validation replies are longer than")
    load_actor(job.output, torch.float32)
    if adapter:
        before, after = (
            load_file(folder / "adapter_model.safetensors")
            for folder in (adapted_folder, Path(job.output))
        )
        assert any(not torch.equal(before[name], after[name]) for name in before)


@pytest.mark.parametrize("adapter", [False, True], ids=["whole", "lora"])
def test_a_killed_training_continues_to_the_same_payload(
    spec: MakeSpec, adapted_folder: Path, adapter: bool
) -> None:
    settings = WITH_ADAPTER if adapter else SETTINGS
    inputs = {"actor_sft": adapted_folder} if adapter else {}
    whole, cut = (spec(take, settings, **inputs) for take in ("whole", "cut"))
    assert_same_when_killed(run, whole, cut, at="step 7/12", continued="after step 5")


def test_micro_batches_change_nothing_but_memory(spec: MakeSpec) -> None:
    found = []
    for take, micro in (("whole", 8), ("single", 1)):
        # With a KL of each micro-batch the losses would lie apart by some hundredths.
        changed = {**KTO, "micro_batch_size": micro, "lr": 1e-3, "beta": 1.0}
        outcome = run(spec(take, {**SETTINGS, "kto_config": changed}), QUIET)
        found.append(dict(outcome.curves[0].points))
    assert found[0] == pytest.approx(found[1], rel=1e-4)


def test_without_thumbs_the_replies_of_pairs_are_learned_from(
    spec: MakeSpec, tmp_path: Path
) -> None:
    rows = [pair(word, f"{word} {word}", "zulu") for word in WORDS]
    # Of three replies the one in the middle was chosen once and rejected once.
    rows += [pair("india", "best", "middling"), pair("india", "middling", "worst")]
    outcome = run(spec(preference_data=folder_of(tmp_path / "pairs", None, rows)), QUIET)
    told = outcome.metrics
    assert (told["thumbs_up"], told["thumbs_down"], told["contradicting_thumbs"]) == (9, 9, 1)
    assert not any(curve.name.startswith("validation_") for curve in outcome.curves)


def test_thumbs_of_one_kind_and_none_that_fits_are_refused(spec: MakeSpec, tmp_path: Path) -> None:
    up = [thumb(word, "train", True) for word in WORDS]
    one = folder_of(tmp_path / "up", [*up, thumb("kilo", "validation", False)])
    with pytest.raises(DataError, match="all 8 training thumbs point up: add thumbs of the other"):
        run(spec("up", preference_data=one), QUIET)
    down = [{**row, "label": False} for row in up]
    with pytest.raises(DataError, match="all 8 training thumbs point down"):
        run(spec("down", preference_data=folder_of(tmp_path / "down", down)), QUIET)
    with pytest.raises(DataError, match="there is no training thumb"):
        run(spec("none", preference_data=folder_of(tmp_path / "none", [])), QUIET)
    long = folder_of(
        tmp_path / "long", [thumb("x" * 99, "train", label) for label in (True, False)]
    )
    with pytest.raises(DataError, match=r"none of the 2 training replies fits in 64 tokens"):
        run(spec("long", preference_data=long), QUIET)


def test_kto_is_planned_with_one_reply_a_row_and_no_other_model(tiny_base_folder: Path) -> None:
    settings = AssistantSettings.model_validate(SETTINGS)
    plan = memory_plan("actor_kto", {"policy": tiny_base_folder}, settings, Means(), 64)
    assert set(plan.held) == {"policy weights", "policy gradients and Adam"}
    sft = memory_plan("actor_sft", {"actor": tiny_base_folder}, AssistantSettings(), Means(), 64)
    # Eight conversations a step in both.
    assert sft.phases["training"]["actor logits"] == plan.phases["training"]["policy logits"]
