"""What every family of models must get right before anything is trained on it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoTokenizer

from chatllama_pipeline.models.bases.build import run
from chatllama_pipeline.models.chat.template import prompt_ids, stop_ids
from chatllama_pipeline.models.families.kinds import Kind, kind_of
from chatllama_pipeline.models.families.language import response_states
from chatllama_pipeline.models.heads import (
    RewardScorer,
    load_actor,
    load_reward,
    response_values,
    score_rows,
    scoring_example,
)
from chatllama_pipeline.models.quiet import quiet_transformers
from chatllama_pipeline.records import StageSpec, user_prompt
from chatllama_pipeline.training.ppo.model import head_on
from chatllama_pipeline.training.ppo.rollout import pad_left, response_logprobs, sample_replies
from tests.families.kit import ACTORS, PRETRAINED_REWARDS, REWARDS
from tests.tiny import QUIET

FolderOf = Callable[[str], Path]
ACTOR_NAMES = [family.name for family in ACTORS]
REWARD_NAMES = [family.name for family in REWARDS]
PROMPTS = ["alpha", "bravo charlie delta echo", "foxtrot golf hotel india juliet kilo lima alpha"]
REPLIES = ["lima", "kilo juliet india hotel golf", "echo delta"]


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory, family_folder: FolderOf) -> FolderOf:
    """The folder that the stage actor_base or reward_base makes of a family's."""
    quiet_transformers()
    made: dict[str, Path] = {}

    def make(name: str) -> Path:
        if name not in made:
            stage = "actor_base" if name in ACTOR_NAMES else "reward_base"
            section = "actor_config" if name in ACTOR_NAMES else "reward_config"
            root = tmp_path_factory.mktemp(f"{name}_base")
            made[name] = root / "output"
            made[name].mkdir()
            settings = {section: {"model": str(family_folder(name))}}
            run(
                StageSpec(
                    stage, "tiny", settings, {}, str(made[name]), str(root / "run"), str(root / "r")
                ),
                QUIET,
            )
        return made[name]

    return make


def rollout(model: Any, tokenizer: Any) -> tuple[list[list[int]], Any]:
    """Replies of different lengths: other tokens stop rows too, by the first seed that does it."""
    prompts = [prompt_ids(tokenizer, user_prompt(text), 64) for text in PROMPTS]
    size = len(tokenizer)
    for seed in range(20):
        sampled = sample_replies(
            model,
            prompts,
            rollout_batch_size=None,
            max_new_tokens=10,
            temperature=1.0,
            stop_ids=[*stop_ids(tokenizer), *range(size - size // 6, size)],
            pad_id=tokenizer.pad_token_id,
            generator=torch.Generator().manual_seed(seed),
        )
        if len(set(sampled.action_mask.sum(1).tolist())) > 1:
            return prompts, sampled
    raise AssertionError("all replies are of one length")


def plain_logprobs(model: Any, prompt: list[int], reply: list[int]) -> torch.Tensor:
    """From one unpadded forward of transformers' own, without any of our code."""
    if model.config.is_encoder_decoder:
        logits = model(input_ids=torch.tensor([prompt]), labels=torch.tensor([reply])).logits[0]
    else:
        logits = model(input_ids=torch.tensor([prompt + reply])).logits[0, len(prompt) - 1 : -1]
    return logits.float().log_softmax(-1).gather(-1, torch.tensor(reply)[:, None])[:, 0]


@pytest.mark.parametrize("name", ACTOR_NAMES)
@torch.no_grad()
def test_log_probabilities_of_a_padded_batch_are_those_of_single_rows(
    name: str, base: FolderOf
) -> None:
    model, tokenizer = (
        load_actor(base(name), torch.float32),
        AutoTokenizer.from_pretrained(base(name)),
    )
    prompts, sampled = rollout(model, tokenizer)
    logp = response_logprobs(
        model,
        *pad_left(prompts, tokenizer.pad_token_id),
        sampled.response,
        sampled.action_mask,
        temperature=1.0,
    )
    for prompt, reply, row in zip(prompts, sampled.reply_ids(), logp, strict=True):
        expected = plain_logprobs(model, prompt, reply)
        torch.testing.assert_close(row[: len(reply)], expected, atol=2e-4, rtol=1e-4)


@pytest.mark.parametrize("name", ACTOR_NAMES)
@torch.no_grad()
def test_a_rollout_takes_the_likeliest_tokens_of_full_forwards(name: str, base: FolderOf) -> None:
    model, tokenizer = (
        load_actor(base(name), torch.float32),
        AutoTokenizer.from_pretrained(base(name)),
    )
    prompts = [prompt_ids(tokenizer, user_prompt(text), 64) for text in PROMPTS]
    found = sample_replies(
        model,
        prompts,
        rollout_batch_size=None,
        max_new_tokens=8,
        temperature=1e-4,
        stop_ids=stop_ids(tokenizer),
        pad_id=tokenizer.pad_token_id,
        generator=torch.Generator().manual_seed(0),
    )
    for prompt, reply in zip(prompts, found.reply_ids(), strict=True):
        grown: list[int] = []
        while len(grown) < len(reply):
            if model.config.is_encoder_decoder:
                start = torch.tensor([[model.config.decoder_start_token_id, *grown]])
                logits = model(input_ids=torch.tensor([prompt]), decoder_input_ids=start).logits
            else:
                logits = model(input_ids=torch.tensor([prompt + grown])).logits
            grown.append(int(logits[0, -1].argmax()))
        assert grown == reply


@pytest.mark.parametrize("name", ACTOR_NAMES)
def test_a_saved_actor_says_what_it_said(name: str, base: FolderOf, tmp_path: Path) -> None:
    model, tokenizer = (
        load_actor(base(name), torch.float32),
        AutoTokenizer.from_pretrained(base(name)),
    )
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    again = load_actor(tmp_path, torch.float32)
    prompts, first = rollout(model, tokenizer)
    assert rollout(again, AutoTokenizer.from_pretrained(tmp_path))[0] == prompts
    assert rollout(again, tokenizer)[1].reply_ids() == first.reply_ids()


@pytest.mark.parametrize("name", REWARD_NAMES)
def test_a_padded_batch_gives_the_scores_of_single_rows_and_a_saved_model_too(
    name: str, base: FolderOf, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    model = load_reward(base(name), torch.float32)
    AutoTokenizer.from_pretrained(base(name)).save_pretrained(tmp_path)
    model.save_pretrained(tmp_path)
    scorer = RewardScorer(tmp_path)
    prompts = [user_prompt(text) for text in PROMPTS]
    together = scorer(prompts, REPLIES)
    alone = torch.cat([scorer([p], [r]) for p, r in zip(prompts, REPLIES, strict=True)])
    torch.testing.assert_close(together, alone, atol=1e-4, rtol=1e-4)
    assert len(set(together.tolist())) == 3
    rows = [
        scoring_example(model.config, scorer.tokenizer, p, r, 64)
        for p, r in zip(prompts, REPLIES, strict=True)
    ]
    before = score_rows(model, rows, scorer.tokenizer.pad_token_id)
    torch.testing.assert_close(together, before, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("name", ACTOR_NAMES)
@torch.no_grad()
def test_every_actors_family_can_be_its_critic(name: str, base: FolderOf) -> None:
    """Behind a whole reply, the value is what the scoring model gives that reply.

    By the same head on the actor's own states, too.
    """
    torch.manual_seed(0)
    critic, tokenizer = (
        load_reward(base(name), torch.float32),
        AutoTokenizer.from_pretrained(base(name)),
    )
    rows = [
        scoring_example(critic.config, tokenizer, user_prompt(p), r, 64)
        for p, r in zip(PROMPTS, REPLIES, strict=True)
    ]
    prompt = pad_left([row.ids[: row.prompt_length] for row in rows], tokenizer.pad_token_id)
    replies = [row.ids[row.prompt_length :] for row in rows]
    width = max(len(reply) for reply in replies) + 1
    response = torch.tensor([reply + [0] * (width - len(reply)) for reply in replies])
    lengths = torch.tensor([len(reply) for reply in replies])
    mask = torch.arange(width) <= lengths[:, None]
    values = response_values(critic, *prompt, response, mask)[torch.arange(3), lengths]
    expected = score_rows(critic, rows, tokenizer.pad_token_id)
    torch.testing.assert_close(values, expected, atol=1e-4, rtol=1e-4)
    actor = load_actor(base(name), torch.float32)
    head = head_on(actor)
    head.score.load_state_dict(critic.score.state_dict())
    _, states = response_states(actor, *prompt, response, mask, temperature=1.0)
    shared = head(states)[torch.arange(3), lengths]
    torch.testing.assert_close(shared, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", [family.name for family in PRETRAINED_REWARDS])
def test_a_pretrained_reward_model_scores_as_plain_transformers_does(
    name: str, base: FolderOf, family_folder: FolderOf
) -> None:
    from transformers import AutoModelForSequenceClassification

    folder = family_folder(name)
    plain = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    expected = [
        float(plain(**tokenizer(p, r, return_tensors="pt")).logits[0, 0].detach())
        for p, r in zip(PROMPTS, REPLIES, strict=True)
    ]
    found = RewardScorer(base(name))([user_prompt(p) for p in PROMPTS], REPLIES)
    assert found.tolist() == pytest.approx(expected, abs=1e-4)
    assert kind_of(plain.config) is Kind.ENCODER
