"""PPO at the size of OPT-1.3B with a critic and a reward model of OPT-350M's shape, on a GPU.

    python benchmarks/ppo_large.py [--prompts 64] [--tokens 256]

Prompts of 256 tokens, replies of 256, all of them full, one epoch, bfloat16 products: what
DeepSpeed-Chat publishes as 3.1 pairs/s on one A100-80G (OPT-1.3B and OPT-350M). Weights are random.
The first iteration warms up and is dropped. Rows are read as many at once as on a CPU, and as many
as a share of the GPU's memory lets.
"""

from __future__ import annotations

import argparse
from typing import Any

import torch
from accelerate import Accelerator
from transformers import OPTConfig, OPTForCausalLM, OPTForSequenceClassification

from chatllama_pipeline.models.memory import passes
from chatllama_pipeline.progress import Progress
from chatllama_pipeline.records import Prompt, user_prompt
from chatllama_pipeline.settings import PpoSettings
from chatllama_pipeline.training.ppo.collect import Task
from chatllama_pipeline.training.ppo.loop import train
from chatllama_pipeline.training.ppo.model import ActorCritic

LARGE = {"hidden_size": 2048, "num_hidden_layers": 24, "ffn_dim": 8192, "num_attention_heads": 32}
SMALL = {"hidden_size": 1024, "num_hidden_layers": 24, "ffn_dim": 4096, "num_attention_heads": 16}
PUBLISHED_PAIRS = 3.1
PAD, VOCABULARY = 1, 50272
MEASURED, MICRO_BATCH = 2, 8
# Of all its memory, what a GPU may take of logits and activations at once.
AT_ONCE = {"as on a CPU": 10**9, "an eighth": passes.GPU_SHARE}


def shape(sizes: dict[str, int]) -> OPTConfig:
    return OPTConfig(**sizes, word_embed_proj_dim=sizes["hidden_size"], dropout=0.0, num_labels=1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--prompts", type=int, default=64)
    parser.add_argument("--tokens", type=int, default=256)
    options = parser.parse_args()
    if not torch.cuda.is_available():
        print("large: no GPU here, skipped")
        return
    torch.manual_seed(0)
    with torch.device("cuda"):
        models = [OPTForCausalLM(shape(LARGE)), OPTForSequenceClassification(shape(SMALL))]
        frozen = [OPTForCausalLM(shape(LARGE)), OPTForSequenceClassification(shape(SMALL))]
    reference, scorer = (model.eval().requires_grad_(False) for model in frozen)
    task = made_task(scorer, options.prompts, options.tokens)
    for name, share in AT_ONCE.items():
        passes.GPU_SHARE = share
        measure(name, ActorCritic(*models), reference, task)


def made_task(scorer: Any, count: int, tokens: int) -> Task:
    """Random prompts of `tokens` tokens, whose replies nothing ends before as many more."""
    draw = torch.Generator().manual_seed(0)
    ids = torch.randint(4, VOCABULARY, (count, tokens), generator=draw).tolist()

    @torch.inference_mode()
    def reward(asked: list[Prompt], texts: list[str], replies: list[list[int]]) -> torch.Tensor:
        rows = torch.tensor([ids[int(prompt[0].content)] for prompt in asked])
        whole = torch.cat([rows, torch.tensor(replies)], dim=1).cuda()
        with torch.autocast("cuda", torch.bfloat16):
            return scorer(input_ids=whole).logits[:, 0].float()

    return Task(
        prompts=[user_prompt(str(row)) for row in range(count)],
        prompt_ids=ids,
        reward=reward,
        decode=lambda replies: ["" for _ in replies],
        stop_ids=[VOCABULARY],
        pad_id=PAD,
        max_new_tokens=tokens,
    )


def measure(name: str, module: ActorCritic, reference: Any, task: Task) -> None:
    """Print pairs/s and the seconds of each phase over the iterations after the first."""
    count = len(task.prompts)
    spent: list[dict[str, float]] = []
    for iterations in (1, MEASURED):
        settings = PpoSettings(
            update_timesteps=count,
            max_timesteps=count,
            num_episodes=iterations,
            batch_size=count // 2,
            micro_batch_size=MICRO_BATCH,
            epochs=1,
        )
        training = train(
            module,
            reference,
            task,
            settings,
            accelerator=Accelerator(mixed_precision="bf16"),
            seed=0,
            progress=Progress("benchmark", lambda line: None),
        )
        spent.append(training.stopwatch.seconds)
    seconds = {phase: taken / MEASURED for phase, taken in spent[1].items()}
    total = sum(seconds.values())
    phases = ", ".join(f"{phase} {taken:.2f} s" for phase, taken in seconds.items())
    rate = count / total
    print(
        f"rows at once {name}: {rate:.1f} pairs/s ({rate / PUBLISHED_PAIRS:.1f} x the published), "
        f"{phases}, {torch.cuda.max_memory_allocated() / 2**30:.0f} GiB"
    )


if __name__ == "__main__":
    main()
