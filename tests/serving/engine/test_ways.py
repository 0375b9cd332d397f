"""The ways to hold a release and write its replies: each writes what `pytorch` does."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from transformers import OPTConfig, OPTForCausalLM

from chatllama_pipeline.cli.serving.serve import ENGINES, serve
from chatllama_pipeline.errors import EngineError, SettingsError
from chatllama_pipeline.models.loading import load_tokenizer
from chatllama_pipeline.serving import loaded
from chatllama_pipeline.serving.engine.jobs import Engine, Job, Sampling, Written
from chatllama_pipeline.serving.engine.llama import LlamaEngine
from chatllama_pipeline.serving.engine.opening import written
from chatllama_pipeline.serving.engine.ways import WAYS, Opened, Way, open_release
from chatllama_pipeline.serving.gguf import conversion
from chatllama_pipeline.serving.wanted import Wanted
from chatllama_pipeline.store.manifests import Version
from chatllama_pipeline.store.versions import Store
from tests.serving.served import NAME, greedy, serving
from tests.waiting import PATIENCE

Released = tuple[Store, Version, Version]
PROMPTS = ([5, 6, 7], list(range(10, 32)), [9], [40, 41, 42, 43])


def job(ids: Sequence[int], most: int = 8, **sampling: float) -> Job:
    settings = Sampling(**{"temperature": 0.0, **sampling})  # type: ignore[arg-type]
    return Job(list(ids), most, frozenset(), settings)


async def last(engine: Engine, asked: Job) -> Written:
    return [step async for step in written(engine, asked)][-1]


def together(engine: Engine, jobs: Sequence[Job]) -> list[Written]:
    async def ask() -> list[Written]:
        return await asyncio.gather(*(last(engine, one) for one in jobs))

    return asyncio.run(asyncio.wait_for(ask(), PATIENCE))


@pytest.fixture(scope="module")
def llama(released: Released, convert_once: Callable[..., None]) -> Iterator[Opened]:
    """The first release, run by llama.cpp."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(conversion, "convert", convert_once)
        opened = open_release(released[1].path, 2, Way("gguf"))
    yield opened
    opened[1].close()


def assert_as_generate(opened: Opened, folder: Path) -> None:
    engine = opened[1]
    # More than may be written at once.
    told = together(engine, [job(ids) for ids in PROMPTS])
    assert [one.error for one in told] == [""] * len(PROMPTS)
    # -1 is no token: nothing ends them.
    assert [one.ids for one in told] == [greedy(folder, list(ids), 8, [-1]) for ids in PROMPTS]


def test_llama_cpp_writes_what_generate_does(llama: Opened, released: Released) -> None:
    assert isinstance(llama[1], LlamaEngine)
    assert_as_generate(llama, released[1].path)


@pytest.mark.parametrize("engine", ["accelerate", "offload"])
def test_a_model_larger_than_its_memory_is_answered_from_disk(
    released: Released, engine: str
) -> None:
    folder = released[1].path
    opened = open_release(folder, 2, Way(engine, memory=60_000))
    places = set(opened[0].model.hf_device_map.values())
    try:
        assert "disk" in places
        assert_as_generate(opened, folder)
    finally:
        opened[1].close()


@pytest.mark.parametrize("engine", ["accelerate", "offload"])
def test_layers_that_stand_elsewhere_are_read_for_one_wave_at_a_time_by_offload_alone(
    released: Released, engine: str
) -> None:
    release, writing = open_release(released[1].path, 4, Way(engine))
    shapes: list[torch.Size] = []
    release.model.register_forward_pre_hook(
        lambda model, given, named: shapes.append(named["input_ids"].shape), with_kwargs=True
    )

    async def ask() -> list[Written]:
        async with contextlib.aclosing(written(writing, job([5, 6], 100))) as first:
            await anext(first)
            others = asyncio.gather(*(last(writing, job([7, n], 2)) for n in (1, 2, 3)))
            return [[told async for told in first][-1], *await others]

    try:
        told = asyncio.run(asyncio.wait_for(ask(), PATIENCE))
    finally:
        writing.close()
    assert [(one.error, len(one.ids)) for one in told] == [("", 100), *[("", 2)] * 3]
    # A prompt has two columns, what is written behind it one at a time.
    begun = [step for step, shape in enumerate(shapes) if shape[1] == 2]
    if engine == "offload":
        assert begun == [0, 100] and shapes[100][0] == 3
    else:
        assert begun[1] < 100


def test_llama_cpp_ends_at_stops_and_repeats_a_seeds_reply(llama: Opened) -> None:
    engine = llama[1]
    [plain] = together(engine, [job([5, 6, 7], 12)])
    stop = next(token for token in plain.ids[3:] if token not in plain.ids[:3])
    stopping = Job([5, 6, 7], 12, frozenset([stop]), Sampling(0.0))
    warm = job([5, 6, 7], 12, temperature=1.5, seed=3)
    told = together(engine, [stopping, warm])
    assert told[0].ids == plain.ids[: plain.ids.index(stop) + 1]
    assert together(engine, [warm])[0].ids == told[1].ids != plain.ids
    other = job([5, 6, 7], 12, temperature=1.5, seed=4)
    assert together(engine, [other])[0].ids != told[1].ids


def test_a_reply_that_is_cancelled_leaves_its_place(llama: Opened) -> None:
    engine = llama[1]

    async def leave() -> None:
        steps = written(engine, job([5], 100))
        await anext(steps)
        await steps.aclose()

    async def leave_often() -> None:
        await asyncio.gather(*(leave() for _ in range(4)))
        assert not engine._writing  # type: ignore[attr-defined]

    asyncio.run(asyncio.wait_for(leave_often(), PATIENCE))
    assert len(together(engine, [job([5, 6], 4)])[0].ids) == 4


def test_what_llama_cpp_refuses_ends_that_reply_with_its_words(llama: Opened) -> None:
    [told] = together(llama[1], [job([5] * 500)])
    assert told.finished and "exceed" in told.error
    assert together(llama[1], [job([5, 6], 4)])[0].error == ""


def test_a_server_by_llama_cpp_speaks_the_same_api(
    released: Released, monkeypatch: pytest.MonkeyPatch, llama: Opened
) -> None:
    # Opened once for all tests of this file.
    kept = (llama[0], Kept(llama[1]))
    monkeypatch.setitem(WAYS, "pytorch", lambda folder, streams, way: kept)
    with serving([Wanted(released[1], 1.0)]) as served:
        status, _, told = served.chat("alpha beta", stream=False)
        _, _, health = served.ask("/health")
    monkeypatch.undo()
    with serving([Wanted(released[1], 1.0)]) as served:
        expected = served.chat("alpha beta", stream=False)[2]
    assert status == 200 and told["choices"] == expected["choices"]
    assert told["usage"] == expected["usage"]
    assert health["versions"][0]["engine"] == "llama.cpp"


class Kept:
    """An engine that outlives the server that it is lent to."""

    def __init__(self, engine: Engine) -> None:
        self.name, self.why, self.longest = engine.name, engine.why, engine.longest
        self.start, self.cancel = engine.start, engine.cancel

    def close(self) -> None:
        pass


def test_a_closed_llama_engine_takes_no_job_and_ends_those_it_has(llama: Opened) -> None:
    class Silent:
        url, headers = "http://127.0.0.1:9", dict[str, str]()

        def close(self) -> None:
            pass

    engine = LlamaEngine.__new__(LlamaEngine)
    engine._server, engine._place = Silent(), Closing()  # type: ignore[assignment]
    engine._writing, engine._closed, engine._rooms, engine._streams = {}, False, None, 1
    [told] = together(engine, [job([5])])
    assert told.finished and "ConnectError" in told.error
    engine.close()
    with pytest.raises(EngineError, match="was closed"):
        together(engine, [job([5])])


class Closing:
    def cleanup(self) -> None:
        pass


def test_a_model_that_does_not_fit_is_told_which_engines_would_hold_it(
    released: Released, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loaded, "free_bytes", lambda device: 10_000)
    told = r"takes 0.0 GB in float32, and 0.0 GB are free: .*--engine gguf.*acc.*off.*deep"
    with pytest.raises(EngineError, match=told):
        open_release(released[1].path, 2, Way())


def test_a_family_that_llama_cpp_does_not_know_is_refused_before_it_is_loaded(
    tiny_base_folder: Path, tmp_path: Path
) -> None:
    sizes = {"hidden_size": 16, "ffn_dim": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    tokenizer = load_tokenizer(tiny_base_folder)
    config = OPTConfig(vocab_size=len(tokenizer), word_embed_proj_dim=16, **sizes)
    OPTForCausalLM(config).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(SettingsError, match=r"--engine gguf: .*doesn't know OPTForCausalLM"):
        open_release(tmp_path, 2, Way("gguf"))


def test_the_command_names_the_ways_there_are(
    released: Released, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert set(ENGINES) == set(WAYS)
    result = CliRunner().invoke(serve, [NAME, "--memory", "2"])
    assert "--memory goes with --engine accelerate and offload alone" in result.output
    for number in ("nan", "inf", "0"):
        result = CliRunner().invoke(serve, [NAME, "--memory", number, "--engine", "offload"])
        assert result.exit_code == 2
        assert "Invalid value for '--memory'" in result.output
