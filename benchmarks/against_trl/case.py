"""What both sides run: shapes, lengths, precision, and the models and prompts that follow."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from typing import Any, Self

import torch
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    LlamaForSequenceClassification,
    OPTConfig,
    OPTForCausalLM,
    OPTForSequenceClassification,
)

# The token that ends a reply where a case lets half of the rows end early.
STOP = 0
# Half of the rows end at this share of the reply's columns.
EARLY_SHARE = 4
EPOCHS, TEMPERATURE, KL_BETA = 2, 1.0, 0.05
ACTOR_LR, CRITIC_LR = 3e-6, 1e-5


@dataclass(frozen=True)
class Sizes:
    """Of a model of either family."""

    family: str
    hidden: int
    inner: int
    layers: int
    heads: int
    vocabulary: int

    def config(self, longest: int) -> Any:
        """transformers' config, for rows of `longest` tokens, and every dropout off."""
        sizes = {"vocab_size": self.vocabulary, "hidden_size": self.hidden, "num_labels": 1}
        sizes |= {"num_hidden_layers": self.layers, "num_attention_heads": self.heads}
        sizes |= {"max_position_embeddings": longest, "pad_token_id": None, "eos_token_id": None}
        if self.family == "opt":
            return OPTConfig(
                **sizes, ffn_dim=self.inner, word_embed_proj_dim=self.hidden, dropout=0.0
            )
        return LlamaConfig(
            **sizes, intermediate_size=self.inner, tie_word_embeddings=True, bos_token_id=None
        )


@dataclass(frozen=True)
class Case:
    """One iteration: `prompts` prompts of as many tokens each, replies of `new_tokens`.

    `critic` are the sizes of critic and reward model, the actor's if None. `micro` rows go through
    the models at once in the update. Half of the rows end at a quarter where `half_early`. With a
    `shared_trunk` our values come from a head on the actor; trl's from a model of their own.
    """

    name: str
    actor: Sizes
    prompts: int
    prompt_tokens: int
    new_tokens: int
    minibatch: int
    micro: int
    epochs: int = EPOCHS
    critic: Sizes | None = None
    half_early: bool = False
    shared_trunk: bool = False
    device: str = "cpu"
    bfloat16: bool = False

    @property
    def early_column(self) -> int:
        """Where the rows of odd number take the stop token, if half of them end early."""
        return self.new_tokens // EARLY_SHARE - 1

    @property
    def tokens(self) -> int:
        """How many tokens an iteration writes."""
        early = self.prompts // 2 if self.half_early else 0
        return self.prompts * self.new_tokens - early * (self.new_tokens - self.early_column - 1)

    @property
    def kind(self) -> str:
        """Precision and trunk in words."""
        precision = "bfloat16" if self.bfloat16 else "float32"
        return f"{precision}, our values on a shared trunk" if self.shared_trunk else precision

    def as_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Self:
        found = json.loads(text)
        critic = found.pop("critic")
        actor = Sizes(**found.pop("actor"))
        return cls(actor=actor, critic=Sizes(**critic) if critic else None, **found)


def prompt_rows(case: Case) -> list[list[int]]:
    """Random prompts of equal width."""
    draw = torch.Generator().manual_seed(0)
    shape = (case.prompts, case.prompt_tokens)
    rows: list[list[int]] = torch.randint(1, case.actor.vocabulary, shape, generator=draw).tolist()
    return rows


@dataclass(frozen=True)
class Models:
    """The four models of PPO; two cases of equal sizes have equal weights."""

    actor: Any
    reference: Any
    critic: Any
    reward: Any


def models(case: Case) -> Models:
    """On the case's device, in float32; the frozen ones in eval mode."""
    longest = case.prompt_tokens + case.new_tokens
    talking, scoring = (LlamaForCausalLM, LlamaForSequenceClassification)
    if case.actor.family == "opt":
        talking, scoring = (OPTForCausalLM, OPTForSequenceClassification)
    torch.manual_seed(0)
    with torch.device(case.device):
        actor, reference = (talking(case.actor.config(longest)) for _ in range(2))
        reference.load_state_dict(actor.state_dict())
        sizes = case.critic or case.actor
        critic, reward = (scoring(sizes.config(longest)) for _ in range(2))
    for frozen in (reference, reward):
        frozen.eval().requires_grad_(False)
    return Models(actor.eval(), reference, critic.eval(), reward)


QUICKSTART = Case(
    "quickstart",
    Sizes("llama", hidden=128, inner=384, layers=2, heads=4, vocabulary=1024),
    prompts=64,
    prompt_tokens=22,
    new_tokens=48,
    minibatch=32,
    micro=32,
)
MIDDLE = Case(
    "27m",
    Sizes("llama", hidden=512, inner=1408, layers=6, heads=8, vocabulary=16384),
    prompts=16,
    prompt_tokens=64,
    new_tokens=64,
    minibatch=8,
    micro=8,
)
LARGE = Case(
    "125m",
    Sizes("opt", hidden=768, inner=3072, layers=12, heads=12, vocabulary=50272),
    prompts=8,
    prompt_tokens=64,
    new_tokens=64,
    minibatch=4,
    micro=4,
)
CASES = {case.name: case for case in (QUICKSTART, MIDDLE, LARGE)}
# OPT-1.3B with critic and reward model of OPT-350M's shape: what DeepSpeed-Chat publishes.
GPU = Case(
    "opt-1.3b",
    Sizes("opt", hidden=2048, inner=8192, layers=24, heads=32, vocabulary=50272),
    prompts=64,
    prompt_tokens=256,
    new_tokens=256,
    minibatch=32,
    micro=8,
    epochs=1,
    critic=Sizes("opt", hidden=1024, inner=4096, layers=24, heads=16, vocabulary=50272),
    device="cuda",
    bfloat16=True,
)
# The same code on a CPU within seconds.
TINY = replace(
    GPU,
    name="tiny",
    actor=Sizes("opt", hidden=64, inner=256, layers=2, heads=4, vocabulary=512),
    critic=Sizes("opt", hidden=32, inner=128, layers=2, heads=4, vocabulary=512),
    prompts=8,
    prompt_tokens=16,
    new_tokens=16,
    minibatch=4,
    micro=2,
    device="cpu",
)
