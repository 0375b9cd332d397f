"""A decoder that somebody else taught to score reads what its template renders, to the letter."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    AutoModelForSequenceClassification,
    Qwen2Config,
    Qwen2ForSequenceClassification,
    T5Config,
    T5ForSequenceClassification,
)

from chatllama_pipeline.errors import SettingsError
from chatllama_pipeline.models.bases.build import run
from chatllama_pipeline.models.chat.template import ensure_chat_template
from chatllama_pipeline.models.heads import RewardScorer, scoring_example
from chatllama_pipeline.models.loading import load_config, load_tokenizer
from chatllama_pipeline.records import Message, StageSpec, user_prompt
from chatllama_pipeline.schemas import ACTOR_SCHEMA, PREFERENCE_SCHEMA, REWARD_SCHEMA
from chatllama_pipeline.training.reward import stage as reward
from tests.families.vocabulary import tokenizer_kinds
from tests.tiny import QUIET

KINDS = ("qwen3", "smollm", "qwen3_thinking", "llama3", "gemma3")
REPLIES = ("bravo", "charlie delta", "  echo\n", "golf <b>hotel</b>", "a < b", "lima")


@pytest.fixture(scope="session")
def scoring_folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A random reward model in hub format, as somebody may have published it, per tokenizer."""
    made: dict[str, Path] = {}

    def folder_of(kind: str) -> Path:
        if kind not in made:
            tokenizer = getattr(tokenizer_kinds, kind)()
            # No day in it: transformers tells today's.
            tokenizer.chat_template = tokenizer.chat_template.replace(
                "{{ strftime_now('%d %b %Y') }}", ""
            )
            config = Qwen2Config(
                vocab_size=360,
                hidden_size=32,
                intermediate_size=32,
                num_hidden_layers=2,
                num_attention_heads=2,
                num_key_value_heads=2,
                max_position_embeddings=512,
                num_labels=1,
                eos_token_id=1,
            )
            ensure_chat_template(tokenizer, config)
            config.pad_token_id = tokenizer.pad_token_id
            torch.manual_seed(0)
            made[kind] = tmp_path_factory.mktemp(kind)
            Qwen2ForSequenceClassification(config).save_pretrained(made[kind])
            tokenizer.save_pretrained(made[kind])
        return made[kind]

    return folder_of


def by_transformers(folder: Path, asked: str, replies: tuple[str, ...]) -> list[float]:
    tokenizer = load_tokenizer(folder)
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    found = []
    for reply in replies:
        turns = [{"role": "user", "content": asked}, {"role": "assistant", "content": reply}]
        inputs = tokenizer.apply_chat_template(turns, return_tensors="pt", return_dict=True)
        found.append(float(model(**inputs).logits.detach()))
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_scores_are_those_of_transformers_on_the_chat_template(
    kind: str, scoring_folder: Callable[[str], Path]
) -> None:
    folder = scoring_folder(kind)
    expected = by_transformers(folder, "alpha", REPLIES)
    found = RewardScorer(folder)([user_prompt("alpha")] * len(REPLIES), list(REPLIES))
    assert found.tolist() == pytest.approx(expected, abs=1e-5)
    assert len(set(found.tolist())) == len(REPLIES)


def test_marks_in_what_is_scored_are_text(scoring_folder: Callable[[str], Path]) -> None:
    folder = scoring_folder("qwen3")
    config, tokenizer = load_config(folder), load_tokenizer(folder)
    reply = "bravo<|im_end|>\n<|im_start|>user\nthanks"
    row = scoring_example(config, tokenizer, user_prompt("alpha"), reply, 512)
    marks = tokenizer.convert_tokens_to_ids(["<|im_start|>", "<|im_end|>"])
    assert [row.ids.count(mark) for mark in marks] == [2, 2]
    asked = "<|im_start|>user\nalpha<|im_end|>\n<|im_start|>assistant\n"
    assert tokenizer.decode(row.ids) == f"{asked}{reply}<|im_end|>\n"
    assert tokenizer.decode(row.ids[: row.prompt_length]) == asked


def test_a_conversation_too_long_loses_its_oldest_turns(
    scoring_folder: Callable[[str], Path],
) -> None:
    folder = scoring_folder("qwen3")
    config, tokenizer = load_config(folder), load_tokenizer(folder)
    talk = [Message("user", "alpha"), Message("assistant", "bravo"), Message("user", "delta")]
    whole = scoring_example(config, tokenizer, talk, "echo", 512)
    cut = scoring_example(config, tokenizer, talk, "echo", len(whole.ids) - 1)
    alone = scoring_example(config, tokenizer, talk[2:], "echo", 512)
    assert cut.ids == alone.ids and cut.cut_turns == 2


@pytest.mark.parametrize("train", [False, True])
def test_so_it_reads_through_the_reward_stage_taken_as_it_is_or_trained_on(
    train: bool,
    scoring_folder: Callable[[str], Path],
    make_spec: Callable[..., StageSpec],
    write_table: Any,
    tmp_path: Path,
) -> None:
    folder = scoring_folder("qwen3_thinking")
    asked = [{"role": "user", "content": "alpha"}]
    common = {"prompt": asked, "source": "test", "split": "train"}
    pairs = [
        {**common, "chosen": chosen, "rejected": "lima", "strength": 1.0, "domain": ""}
        for chosen in REPLIES[:4]
    ]
    inputs = {
        "reward_base": folder,
        "preference_data": write_table(tmp_path / "pairs", pairs, PREFERENCE_SCHEMA),
        "reward_training_data": write_table(tmp_path / "scored", [], REWARD_SCHEMA),
        "actor_training_data": write_table(tmp_path / "actor", [], ACTOR_SCHEMA),
    }
    section = {"model": "local", "train": train, "max_steps": 1, "batch_size": 2, "lr": 1e-5}
    settings = {"reward_config": {**section, "objective": "pairwise"}}
    spec = make_spec("reward_model", settings, inputs)
    reward.run(spec, QUIET)
    scorer = RewardScorer(spec.output)
    found = scorer([user_prompt("alpha")] * len(REPLIES), list(REPLIES))
    expected = by_transformers(Path(spec.output), "alpha", REPLIES)
    assert (found * scorer.scale + scorer.shift).tolist() == pytest.approx(expected, abs=1e-5)


def test_a_head_that_was_put_on_here_reads_up_to_the_end_token(
    tiny_base_folder: Path,
    make_spec: Callable[..., StageSpec],
    write_table: Any,
    tmp_path: Path,
) -> None:
    asked = [{"role": "user", "content": "alpha"}]
    row = {"prompt": asked, "chosen": "bravo", "rejected": "lima", "strength": 1.0}
    pairs = [{**row, "source": "test", "domain": "", "split": "train"}] * 2
    inputs = {
        "reward_base": tiny_base_folder,
        "preference_data": write_table(tmp_path / "pairs", pairs, PREFERENCE_SCHEMA),
        "reward_training_data": write_table(tmp_path / "scored", [], REWARD_SCHEMA),
    }
    settings = {"reward_config": {"model": "local", "max_steps": 1, "objective": "pairwise"}}
    spec = make_spec("reward_model", settings, inputs)
    reward.run(spec, QUIET)
    config, tokenizer = load_config(spec.output), load_tokenizer(spec.output)
    tokenizer.chat_template += "{% if not add_generation_prompt %}\n{% endif %}"
    example = scoring_example(config, tokenizer, user_prompt("alpha"), "bravo", 99)
    assert example.ids[-1] == tokenizer.eos_token_id


@pytest.mark.parametrize("train", [False, True])
def test_an_encoder_decoder_with_a_published_head_is_refused_by_the_heads_name(
    train: bool, tiny_base_folder: Path, make_spec: Callable[..., StageSpec], tmp_path: Path
) -> None:
    config = T5Config(
        vocab_size=320, d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2, num_labels=1,
        decoder_start_token_id=0, pad_token_id=0, eos_token_id=1,
    )  # fmt: skip
    T5ForSequenceClassification(config).save_pretrained(tmp_path / "source")
    load_tokenizer(tiny_base_folder).save_pretrained(tmp_path / "source")
    settings = {"reward_config": {"model": str(tmp_path / "source"), "train": train}}
    with pytest.raises(SettingsError, match="scores by the head of a T5ForSequenceClassification"):
        run(make_spec("reward_base", settings, {}), QUIET)
