"""Switches in a published config that change what a forward gives, set as our forwards expect.

People publish what they last trained or analysed with: hidden states of every layer in the output,
a tuple for an output, the loss that balances experts (which fails on a step behind a cache).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from transformers import PreTrainedConfig

SWITCHES = {
    "output_router_logits": False,
    "output_hidden_states": False,
    "output_attentions": False,
    "return_dict": True,
    "use_cache": True,
    # A setting of ours says whether activations are kept.
    "gradient_checkpointing": False,
    # RWKV divides its weights in place for half precision, and would be saved so.
    "rescale_every": 0,
}

# BigBird's attention over some blocks of a long row alone. At its first short row it goes over to
# the full one, for good: a score would depend on what was scored before.
SPARSE, FULL = "block_sparse", "original_full"
# What computes attention on any machine; of another kernel the publisher's machine had packages.
EVERYWHERE = (None, "eager", "sdpa")


def set_switches(config: Any) -> Any:
    """`config` itself, each switch that it or a config within it has set as expected."""
    for part in _parts(config):
        if getattr(part, "_attn_implementation", None) not in EVERYWHERE:
            part._attn_implementation = None
        if getattr(part, "attention_type", None) == SPARSE:
            part.attention_type = FULL
        for name, value in SWITCHES.items():
            if hasattr(part, name):
                setattr(part, name, value)
    return config


def without_noise(config: Any) -> Any:
    """`config` itself, with neither dropout nor jitter on a mixture's router."""
    for part in _parts(config):
        for name, value in part.to_dict().items():
            if ("drop" in name or "jitter" in name) and isinstance(value, float):
                setattr(part, name, 0.0)
    return config


def _parts(config: Any) -> Iterator[Any]:
    yield config
    for value in list(vars(config).values()):
        if isinstance(value, PreTrainedConfig):
            yield from _parts(value)
