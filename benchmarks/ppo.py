"""Speed of PPO: seconds per phase of an iteration, tokens/s, and decoding against `generate`.

    python benchmarks/ppo.py [--hidden 128] [--layers 2] [--prompts 64] [--new-tokens 48]

Models have random weights; a share of the vocabulary ends a reply, so that lengths vary as real
ones do. What is compared runs in turns, and medians are printed: on busy machines trust the ratio.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import argparse
import statistics
import time
from typing import Any

import torch
from accelerate import Accelerator
from transformers import LlamaConfig, LlamaForCausalLM, LlamaForSequenceClassification

from chatllama_pipeline.machine import peak_bytes
from chatllama_pipeline.progress import Progress
from chatllama_pipeline.records import user_prompt
from chatllama_pipeline.settings import PpoSettings
from chatllama_pipeline.training.ppo.collect import Task
from chatllama_pipeline.training.ppo.loop import train
from chatllama_pipeline.training.ppo.model import ActorCritic
from chatllama_pipeline.training.ppo.rollout import generate, pad_left, uniform_levels

VOCABULARY, PAD, PROMPT_TOKENS, REPEATS = 1024, 0, 20, 7
# 3 % of the tokens end a reply: 48 columns then hold 26 tokens on average.
STOPS = list(range(1, 32))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--hidden", type=int, default=128)
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--prompts", type=int, default=64)
    parser.add_argument("--new-tokens", type=int, default=48)
    options = parser.parse_args()
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=options.hidden,
        intermediate_size=options.hidden * 3,
        num_hidden_layers=options.layers,
        num_attention_heads=4,
        max_position_embeddings=PROMPT_TOKENS + options.new_tokens,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=STOPS[0],
        pad_token_id=PAD,
        num_labels=1,
    )
    draw = torch.Generator().manual_seed(0)
    lengths = torch.randint(
        PROMPT_TOKENS // 2, PROMPT_TOKENS + 1, (options.prompts,), generator=draw
    )
    prompts = [
        torch.randint(STOPS[-1] + 1, VOCABULARY, (length,), generator=draw).tolist()
        for length in lengths.tolist()
    ]
    compare_decoding(LlamaForCausalLM(config).eval(), prompts, options.new_tokens)
    time_iteration(config, prompts, options.new_tokens)


def compare_decoding(actor: Any, prompts: list[list[int]], new_tokens: int) -> None:
    """Print our decoding loop's and transformers' `generate`'s tokens/s on the same prompts."""
    ids, mask = pad_left(prompts, PAD)

    def ours() -> int:
        found = generate(
            actor,
            ids,
            mask,
            max_new_tokens=new_tokens,
            temperature=1.0,
            stop_ids=STOPS,
            pad_id=PAD,
            levels=uniform_levels(len(ids), new_tokens, torch.Generator().manual_seed(0)),
        )
        return int(found.action_mask.sum())

    def theirs() -> int:
        torch.manual_seed(0)
        found = actor.generate(
            ids,
            attention_mask=mask.long(),
            max_new_tokens=new_tokens,
            do_sample=True,
            top_k=0,
            top_p=1.0,
            temperature=1.0,
            eos_token_id=STOPS,
            pad_token_id=PAD,
        )
        return int((found[:, ids.shape[1] :] != PAD).sum())

    rates: dict[str, list[float]] = {"ours": [], "generate": []}
    for _ in range(REPEATS):
        for name, decode in (("ours", ours), ("generate", theirs)):
            started = time.perf_counter()
            tokens = decode()
            rates[name].append(tokens / (time.perf_counter() - started))
    medians = {name: statistics.median(rate) for name, rate in rates.items()}
    for name, rate in medians.items():
        print(f"decoding, {name:8s} {rate:9.0f} tokens/s")
    print(f"ours / generate    {medians['ours'] / medians['generate']:9.2f}")


def time_iteration(config: Any, prompts: list[list[int]], new_tokens: int) -> None:
    """Print the seconds per phase of one iteration: 2 epochs of minibatches of half the prompts."""
    critic = LlamaForSequenceClassification(config)
    settings = PpoSettings(
        update_timesteps=len(prompts),
        max_timesteps=len(prompts),
        num_episodes=REPEATS,
        batch_size=len(prompts) // 2,
        epochs=2,
    )
    task = Task(
        prompts=[user_prompt("") for _ in prompts],
        prompt_ids=prompts,
        reward=lambda asked, texts, replies: torch.tensor([-float(len(r)) for r in replies]),
        decode=lambda replies: ["" for _ in replies],
        stop_ids=STOPS,
        pad_id=PAD,
        max_new_tokens=new_tokens,
    )
    training = train(
        ActorCritic(LlamaForCausalLM(config), critic),
        LlamaForCausalLM(config),
        task,
        settings,
        accelerator=Accelerator(),
        seed=0,
        progress=Progress("benchmark", lambda line: None),
    )
    for name, seconds in training.stopwatch.seconds.items():
        print(f"an iteration, {name:8s} {seconds / REPEATS:8.3f} s")
    metrics = training.stopwatch.metrics()
    print(f"sampled tokens over all phases {metrics['tokens_per_second']:.0f} tokens/s")
    print(f"peak memory {peak_bytes('cpu') / 2**20:.0f} MiB")


if __name__ == "__main__":
    main()
