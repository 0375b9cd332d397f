from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    MambaConfig,
    MambaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    T5Config,
    T5ForConditionalGeneration,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from chatllama_pipeline.errors import EngineError
from chatllama_pipeline.models.families.decoding import decoding
from chatllama_pipeline.models.families.manner import Manner, set_manner
from chatllama_pipeline.serving.engine import opening
from chatllama_pipeline.serving.engine.jobs import Engine, Job, Sampling, Written
from chatllama_pipeline.serving.engine.opening import open_engine, pause_seconds, written
from chatllama_pipeline.serving.engine.paged import PagedEngine
from chatllama_pipeline.serving.engine.sampling import Chances, choose
from chatllama_pipeline.serving.engine.waves import WavesEngine
from chatllama_pipeline.training.ppo.rollout import pad_left
from tests.serving.served import lively
from tests.waiting import PATIENCE

SMALL: dict[str, Any] = {"vocab_size": 60, "initializer_range": 0.5}


def llama(base: Path, folder: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(lively(base, folder, 0)).eval()


def mistral() -> Any:
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "sliding_window": 8}
    return MistralForCausalLM(MistralConfig(**SMALL, **sizes, **heads))


def gpt2() -> Any:
    return GPT2LMHeadModel(GPT2Config(**SMALL, n_embd=32, n_layer=2, n_head=2, n_positions=64))


def mamba() -> Any:
    return MambaForCausalLM(MambaConfig(vocab_size=60, hidden_size=32, num_hidden_layers=2))


def t5() -> Any:
    sizes = {"d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 2, "num_heads": 4}
    return T5ForConditionalGeneration(
        T5Config(vocab_size=60, **sizes, decoder_start_token_id=0, initializer_factor=4.0)
    )


MODELS = {"mistral": mistral, "gpt2": gpt2, "mamba": mamba, "t5": t5}


def made(build: Callable[[], Any]) -> Any:
    torch.manual_seed(0)
    return build().eval()


def job(ids: Sequence[int], most: int = 8, **sampling: Any) -> Job:
    return Job(list(ids), most, frozenset(), Sampling(**{"temperature": 0.0, **sampling}))


async def last(engine: Engine, asked: Job, after: float = 0.0) -> Written:
    await asyncio.sleep(after)
    return [step async for step in written(engine, asked)][-1]


def together(engine: Engine, jobs: Sequence[Job], apart: float = 0.0) -> list[Written]:
    """The replies to jobs that begin `apart` seconds after one another."""

    async def ask() -> list[Written]:
        return await asyncio.gather(
            *(last(engine, one, place * apart) for place, one in enumerate(jobs))
        )

    return asyncio.run(asyncio.wait_for(ask(), PATIENCE))


@torch.inference_mode()
def alone(model: Any, ids: Sequence[int], most: int = 8) -> list[int]:
    """Greedy tokens in the model's own manner, nothing else beside."""
    growing = decoding(model, *pad_left([list(ids)], 0), most)
    found: list[int] = []
    for _ in range(most):
        token = growing.next_logits().argmax(-1)
        found.append(int(token))
        growing.append(token)
    return found


@pytest.mark.parametrize(
    ("family", "kind", "why"),
    [
        ("mistral", PagedEngine, ""),
        ("gpt2", PagedEngine, ""),
        ("mamba", WavesEngine, "continuous batching failed on it: "),
        ("t5", WavesEngine, "decoder-only models, and T5ForConditionalGeneration is encoder-dec"),
    ],
)
def test_each_family_gets_the_engine_that_writes_as_it_does_alone_or_is_told_why_not(
    family: str, kind: Any, why: str
) -> None:
    model = made(MODELS[family])
    engine = open_engine(model, 0, streams=3, context=64)
    try:
        assert isinstance(engine, kind)
        assert engine.why == why or (why and why in engine.why)
        prompts = [[5, 6, 7], list(range(10, 32)), [9], [40, 41, 42, 43]]
        # More than may be written at once, and not all at the same moment.
        told = together(engine, [job(ids) for ids in prompts], apart=0.02)
        assert [one.error for one in told] == [""] * 4
        assert [one.ids for one in told] == [alone(model, ids) for ids in prompts]
    finally:
        engine.close()


def test_a_model_that_batching_would_read_wrong_is_decoded_in_its_own_manner(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Wrong(PagedEngine):
        def start(self, number: str, job: Job, listen: Any) -> None:
            super().start(number, Job([1, *job.ids], job.most, job.stops, job.sampling), listen)

    monkeypatch.setattr(opening, "PagedEngine", Wrong)
    engine = open_engine(made(gpt2), 0, streams=2, context=64)
    engine.close()
    assert isinstance(engine, WavesEngine)
    assert engine.why == "continuous batching writes other tokens than the model does alone"


def test_a_model_that_batching_trips_over_or_never_ends_is_told(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Failing(PagedEngine):
        def start(self, number: str, job: Job, listen: Any) -> None:
            listen(Written([], finished=True, error="RuntimeError: no such kernel"))

    class Stuck(PagedEngine):
        def start(self, number: str, job: Job, listen: Any) -> None:
            pass

    monkeypatch.setattr(opening, "TRIED_SECONDS", 0.05)
    for kind, why in (
        (Failing, "continuous batching failed on it: RuntimeError: no such kernel"),
        (Stuck, "continuous batching took more than 0.05 s for three short replies"),
    ):
        monkeypatch.setattr(opening, "PagedEngine", kind)
        engine = open_engine(made(gpt2), 0, streams=2, context=64)
        engine.close()
        assert isinstance(engine, WavesEngine) and engine.why == why


def test_a_model_whose_cache_is_of_no_use_is_told() -> None:
    model = made(gpt2)
    set_manner(model.config, Manner(steps="whole"))
    engine = open_engine(model, 0, streams=2, context=64)
    engine.close()
    assert isinstance(engine, WavesEngine)
    assert engine.why.endswith(
        "this model decodes from the whole row at every token, since its cache is of no use here"
    )


@pytest.mark.parametrize("kind", ["paged", "waves"])
def test_rows_end_at_their_stops_and_limits_and_sample_by_their_own_seeds(
    kind: str, tiny_base_folder: Path, tmp_path: Path
) -> None:
    model = llama(tiny_base_folder, tmp_path)
    engine: Engine = PagedEngine(model, 4, 64) if kind == "paged" else WavesEngine(model, 0, 4, 64)
    try:
        plain = alone(model, [5, 6, 7], 12)
        stop = next(token for token in plain[3:] if token not in plain[:3])
        stopping = Job([5, 6, 7], 12, frozenset([stop]), Sampling(0.0))
        warm = job([5, 6, 7], 12, temperature=1.2, seed=3)
        told = together(engine, [stopping, job([5, 6, 7], 5), warm, job([8], 12, temperature=1.2)])
        assert told[0].ids == plain[: plain.index(stop) + 1]
        assert told[1].ids == plain[:5]
        # A seed's reply is the same, whoever stands beside it.
        assert together(engine, [warm])[0].ids == told[2].ids != plain
        other = job([5, 6, 7], 12, temperature=1.2, seed=4)
        assert together(engine, [other])[0].ids != told[2].ids
    finally:
        engine.close()


def test_the_more_replies_are_written_the_longer_each_pauses_within_bounds() -> None:
    pauses = [pause_seconds(count) for count in range(1, 100)]
    assert pauses == sorted(pauses)
    assert (pauses[0], pauses[-1]) == (opening.SHORTEST_PAUSE, opening.LONGEST_PAUSE)
    # Together they have no more pieces than a few alone would.
    most = [count / pause for count, pause in enumerate(pauses, 1)]
    assert max(most[:12]) <= 50.0001


@pytest.mark.parametrize("kind", ["paged", "waves"])
def test_between_its_first_token_and_its_end_a_reply_is_told_once_in_a_pause(
    kind: str, tiny_base_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = llama(tiny_base_folder, tmp_path)
    engine: Engine = PagedEngine(model, 4, 64) if kind == "paged" else WavesEngine(model, 0, 4, 64)

    async def looks(asked: Job) -> list[int]:
        return [len(step.ids) async for step in written(engine, asked)]

    async def ask() -> list[list[int]]:
        return await asyncio.gather(*(looks(job([5, 6, number], 12)) for number in range(3)))

    try:
        monkeypatch.setattr(opening, "SHORTEST_PAUSE", 1e12)
        monkeypatch.setattr(opening, "LONGEST_PAUSE", 1e12)
        for found in asyncio.run(ask()):
            assert len(found) == 2 and found[-1] == 12
        monkeypatch.setattr(opening, "SHORTEST_PAUSE", 1e-9)
        monkeypatch.setattr(opening, "LONGEST_PAUSE", 1e-9)
        for found in asyncio.run(ask()):
            assert len(found) > 2 and found[-1] == 12
    finally:
        engine.close()


@pytest.mark.parametrize("kind", ["paged", "waves"])
def test_an_error_ends_the_replies_it_struck_and_the_next_are_written(
    kind: str, tiny_base_folder: Path, tmp_path: Path
) -> None:
    model = llama(tiny_base_folder, tmp_path)
    engine: Engine = PagedEngine(model, 4, 64) if kind == "paged" else WavesEngine(model, 0, 4, 64)
    strikes = [True]

    def strike(*_: Any) -> None:
        if strikes.pop() if strikes else False:
            raise RuntimeError("out of memory, say")

    model.register_forward_pre_hook(strike)
    try:
        [told] = together(engine, [job([5, 6, 7])])
        assert told.finished and "out of memory, say" in told.error
        [told] = together(engine, [job([5, 6, 7])])
        assert (told.ids, told.error) == (alone(model, [5, 6, 7]), "")
    finally:
        engine.close()


def test_a_closed_engine_takes_no_job_and_ends_those_it_has() -> None:
    model = made(gpt2)
    # Both replies take a second; what closes comes long before.
    model.register_forward_pre_hook(lambda *_: time.sleep(0.01))
    engine = WavesEngine(model, 0, 1, 64)

    async def ask() -> Written:
        asking = asyncio.create_task(last(engine, job([5], 50)))
        waiting = asyncio.create_task(last(engine, job([6], 50)))
        await asyncio.sleep(0.05)
        await asyncio.to_thread(engine.close)
        assert (await waiting).error == "the engine was closed"
        return await asking

    told = asyncio.run(asyncio.wait_for(ask(), PATIENCE))
    assert told.error == "the engine was closed" or len(told.ids) == 50
    with pytest.raises(EngineError, match="was closed"):
        together(engine, [job([5])])


def test_the_chances_of_top_k_and_top_p_are_those_of_transformers() -> None:
    torch.manual_seed(0)
    logits = torch.randn(1, 50) * 3
    temperature, top_k, top_p = 0.8, 12, 0.7
    kept = TopPLogitsWarper(top_p)(None, TopKLogitsWarper(top_k)(None, logits / temperature))
    expected = kept.softmax(-1)[0]
    chances = Chances(Sampling(temperature, top_p, top_k, seed=0))
    drawn = torch.stack([choose(logits, [chances])[0] for _ in range(4000)])
    shares = torch.bincount(drawn, minlength=50) / len(drawn)
    assert (shares[expected == 0] == 0).all()
    assert (shares - expected).abs().max() < 0.03
