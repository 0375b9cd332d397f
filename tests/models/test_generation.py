"""Generation configs of our own, in the place of what publishers sample with."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from chatllama_pipeline.evaluation.replies import answer
from chatllama_pipeline.llm.local.process import LocalModel
from chatllama_pipeline.models.adapters.lora import add_adapter, save_model
from chatllama_pipeline.models.bases.build import run
from chatllama_pipeline.models.chat.template import stop_ids
from chatllama_pipeline.models.generation import end_ids, generate_plainly
from chatllama_pipeline.models.heads import load_actor
from chatllama_pipeline.settings import LoraSettings
from tests.tiny import QUIET, MakeSpec

VICUNA = {
    "bos_token_id": 1,
    "eos_token_id": 2,
    "temperature": 0.9,
    "top_p": 0.6,
    "max_length": 4096,
}


@pytest.fixture
def published(tiny_base_folder: Path, tmp_path: Path) -> Callable[..., Path]:
    """The tiny base as somebody published it, with that generation config."""

    def make(generation: dict[str, Any], **config: Any) -> Path:
        folder = shutil.copytree(tiny_base_folder, tmp_path / "published", dirs_exist_ok=True)
        (folder / "generation_config.json").write_text(json.dumps(generation))
        plain = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**plain, **config}))
        return folder

    return make


def written(folder: Path | str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((Path(folder) / "generation_config.json").read_text())
    del found["transformers_version"]
    return found


@pytest.mark.parametrize("stage", ["actor_base", "reward_base"])
def test_a_base_names_tokens_and_nothing_of_how_its_publisher_samples(
    make_spec: MakeSpec, published: Callable[..., Path], stage: str
) -> None:
    section = stage.replace("base", "config")
    spec = make_spec(stage, {section: {"model": str(published(VICUNA))}}, {})
    run(spec, QUIET)
    tokenizer = AutoTokenizer.from_pretrained(spec.output)
    (end,) = stop_ids(tokenizer)
    assert written(spec.output) == {
        "eos_token_id": [end, 2],
        "pad_token_id": tokenizer.pad_token_id,
    }


@pytest.mark.parametrize("with_adapter", [False, True])
def test_a_trained_model_is_saved_whatever_its_publisher_samples_with(
    make_spec: MakeSpec, published: Callable[..., Path], tmp_path: Path, with_adapter: bool
) -> None:
    spec = make_spec("actor_base", {"actor_config": {"model": str(published(VICUNA))}}, {})
    run(spec, QUIET)
    model, tokenizer = (
        load_actor(spec.output, torch.float32),
        AutoTokenizer.from_pretrained(spec.output),
    )
    if with_adapter:
        add_adapter(model, LoraSettings(), "actor_config", spec.output, seed=0)
    generate_plainly(model, tokenizer, stop_ids(tokenizer))
    save_model(model, tmp_path / "trained")
    assert written(tmp_path / "trained") == written(spec.output)


def test_what_an_old_config_says_of_sampling_is_left_out(
    make_spec: MakeSpec, published: Callable[..., Path]
) -> None:
    folder = published(VICUNA, temperature=0.7, num_beams=4, no_repeat_ngram_size=3)
    spec = make_spec("actor_base", {"actor_config": {"model": str(folder)}}, {})
    run(spec, QUIET)
    config = json.loads((Path(spec.output) / "config.json").read_text())
    assert not {"temperature", "num_beams", "no_repeat_ngram_size"} & config.keys()


@pytest.mark.parametrize(
    ("named", "others"),
    [(None, []), (7, [7]), ([9, 7], [9, 7]), ([7, 10_000, -1, None], [7]), ([], [])],
)
def test_the_ends_that_a_publisher_names_are_kept_behind_the_templates(
    tiny_base_folder: Path, named: Any, others: list[int]
) -> None:
    model = AutoModelForCausalLM.from_pretrained(tiny_base_folder)
    tokenizer = AutoTokenizer.from_pretrained(tiny_base_folder)
    model.generation_config.eos_token_id = named
    stops = stop_ids(tokenizer)
    generate_plainly(model, tokenizer, stops)
    assert end_ids(stops, model) == [*stops, *others]


def test_a_reply_ends_at_any_end_that_the_publisher_names(tiny_base_folder: Path) -> None:
    model = load_actor(tiny_base_folder, torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(tiny_base_folder)
    asked: dict[str, Any] = {"max_new_tokens": 6, "temperature": 1.0, "seed": 0}
    (reply,) = answer(model, tokenizer, [[5, 6]], **asked)
    assert not reply.finished
    model.generation_config.eos_token_id = [reply.ids[2]]
    (cut,) = answer(model, tokenizer, [[5, 6]], **asked)
    assert cut.finished and cut.ids == reply.ids[: reply.ids.index(reply.ids[2]) + 1]


@pytest.mark.parametrize(
    "generation",
    [
        {"return_dict_in_generate": True, "output_scores": True},
        {"do_sample": True, "num_return_sequences": 3},
        {"stop_strings": ["a"]},
        {"num_beams": 3, "early_stopping": True},
        {"min_new_tokens": 5, "repetition_penalty": 3.0, "no_repeat_ngram_size": 1},
        {"suppress_tokens": [*range(100, 200)], "forced_eos_token_id": 5, "bad_words_ids": [[7]]},
        {"max_length": 1},
    ],
)  # fmt: skip
def test_a_local_judge_obeys_what_it_is_asked_alone(
    published: Callable[..., Path], tiny_base_folder: Path, generation: dict[str, Any]
) -> None:
    plain = GenerationConfig.from_pretrained(tiny_base_folder).to_diff_dict()
    asked = [
        {
            "key": f"{temperature}", "messages": [{"role": "user", "content": "alpha"}],
            "temperature": temperature, "max_tokens": 5,
        }
        for temperature in (0.0, 1.0)
    ]  # fmt: skip

    def answers(folder: Path) -> list[dict[str, Any]]:
        model = LocalModel(str(folder), "cpu", 2, "llm.judge")
        return list(model.answer([dict(one) for one in asked]))

    assert answers(published({**plain, **generation})) == answers(tiny_base_folder)
