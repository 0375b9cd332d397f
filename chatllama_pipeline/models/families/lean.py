"""A decoding step of the layout that Llama, Mistral and Qwen2 share, without their modules.

On small models the modules around the products take most of a step. The arithmetic is theirs, in
their order, so that the logits are theirs to the bit in float32. Shapes: B rows, W columns of
prompt and reply, D floats a head.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from chatllama_pipeline.models.families.cached import Cached

LAYOUT = {
    f"transformers.models.{family}.modeling_{family}.{name}ForCausalLM"
    for family, name in (("llama", "Llama"), ("mistral", "Mistral"), ("qwen2", "Qwen2"))
}
# What copies of weights may take, and nobody minds.
SMALL_BYTES = 256 * 2**20
# Those whose angles are the same however long a row is.
ROTATIONS = {"default", "linear", "llama3", "yarn"}


def fits(model: Any) -> bool:
    """Whether `model` is of that layout as it was published, and small.

    What stands inside of its layers (an adapter, a hook, quantised weights), and what runs its
    products in another type, isn't known here. A large model's packed weights would weigh more than
    its modules cost.
    """
    kind = type(model)
    if f"{kind.__module__}.{kind.__name__}" not in LAYOUT:
        return False
    weight, config = model.lm_head.weight, model.config
    if weight.is_meta or any(hasattr(part, "_hf_hook") for part in model.modules()):
        return False  # Accelerate brings the weights when a module is called
    return (
        config._attn_implementation == "sdpa"
        and getattr(config, "sliding_window", None) is None
        and model.model.rotary_emb.rope_type in ROTATIONS
        and not model.training
        and weight.dtype == torch.float32
        and not torch.is_autocast_enabled(weight.device.type)
        and all(type(part) is nn.Linear for part in _products(model))
        and not any(part._forward_hooks or part._forward_pre_hooks for part in model.modules())
        and sum(part.weight.nbytes for part in _products(model)[1:]) <= SMALL_BYTES
    )


def _products(model: Any) -> list[Any]:
    """The head, and the linear maps of all layers."""
    return [model.lm_head, *(part for layer in model.model.layers for part in _maps(layer))]


def _maps(layer: Any) -> list[nn.Module]:
    attention, mlp = layer.self_attn, layer.mlp
    seen = (attention.q_proj, attention.k_proj, attention.v_proj, attention.o_proj)
    return [*seen, mlp.gate_proj, mlp.up_proj, mlp.down_proj]


class _Map(NamedTuple):
    """One or several linear maps of the same input, side by side."""

    weight: Tensor
    bias: Tensor | None

    @classmethod
    def of(cls, *parts: Any) -> _Map:
        if len(parts) == 1:
            return cls(parts[0].weight, parts[0].bias)
        biased = parts[0].bias is not None
        return cls(
            torch.cat([part.weight for part in parts]),
            torch.cat([part.bias for part in parts]) if biased else None,
        )

    def __call__(self, hidden: Tensor) -> Tensor:
        return F.linear(hidden, self.weight, self.bias)


class _Layer:
    """A layer's packed weights, and the keys and values `[B, heads, W, D]` of what was read."""

    def __init__(self, layer: Any, read: Any, columns: int) -> None:
        attention, mlp = layer.self_attn, layer.mlp
        self.before, self.between = layer.input_layernorm, layer.post_attention_layernorm
        self.qkv = _Map.of(attention.q_proj, attention.k_proj, attention.v_proj)
        self.out, self.down = _Map.of(attention.o_proj), _Map.of(mlp.down_proj)
        self.gate_up, self.act = _Map.of(mlp.gate_proj, mlp.up_proj), mlp.act_fn
        self.scaling, self.depth = attention.scaling, attention.head_dim
        room = (0, 0, 0, columns)
        self.keys, self.values = F.pad(read.keys, room), F.pad(read.values, room)
        self.shared = self.keys.shape[1]

    def step(self, hidden: Tensor, angles: tuple[Tensor, Tensor], seen: _Seen) -> Tensor:
        """`hidden[B,H]` of the newest token -> what the layer makes of it, `[B,H]`."""
        rows, shared, depth = len(hidden), self.shared, self.depth
        heads = self.qkv(_normed(self.before, hidden)).view(rows, -1, depth)
        # Queries and keys are turned at once.
        turned = heads[:, :-shared]
        first, second = turned.chunk(2, dim=-1)
        turned = turned * angles[0] + torch.cat((-second, first), dim=-1) * angles[1]
        self.keys[:, :, seen.width - 1] = turned[:, -shared:]
        self.values[:, :, seen.width - 1] = heads[:, -shared:]
        found = self._attend(turned[:, :-shared], seen)
        hidden = hidden + self.out(found.reshape(rows, -1))
        gate, up = self.gate_up(_normed(self.between, hidden)).chunk(2, dim=-1)
        return hidden + self.down(self.act(gate) * up)

    def _attend(self, queries: Tensor, seen: _Seen) -> Tensor:
        """What `queries[B,heads,D]` find; heads that share keys are the columns of one query.

        Without a mask torch is told that they share: so transformers has it, and the kernels of
        both differ in the last bit.
        """
        rows, heads, depth = queries.shape
        read = self.keys[:, :, : seen.width], self.values[:, :, : seen.width]
        if seen.mask is None:
            grouped = heads != self.shared
            return F.scaled_dot_product_attention(
                queries[:, :, None], *read, scale=self.scaling, enable_gqa=grouped
            )
        return F.scaled_dot_product_attention(
            queries.reshape(rows, self.shared, -1, depth),
            *read,
            attn_mask=seen.mask[..., : seen.width],
            scale=self.scaling,
        )

    def keep(self, rows: Tensor) -> None:
        self.keys, self.values = self.keys[rows], self.values[rows]


class _Seen(NamedTuple):
    """What a step may look at: so many columns, where `mask[B,1,1,W]` has no minus infinity."""

    width: int
    mask: Tensor | None


class _Step:
    """Rows whose prompts were read, and that grow token by token."""

    def __init__(self, model: Any, mask: Tensor, layers: Sequence[Any], columns: int) -> None:
        """`mask[B,P]` of the prompts, `layers` of the cache that they were read into."""
        decoder = model.model
        self.embedding, self.norm, self.head = decoder.embed_tokens, decoder.norm, model.lm_head
        self.layers = [
            _Layer(layer, read, columns) for layer, read in zip(decoder.layers, layers, strict=True)
        ]
        width = mask.shape[1] + columns
        places = torch.arange(width, device=mask.device)
        self.cos, self.sin = (
            angles[0, :, None]
            for angles in decoder.rotary_emb(self.embedding.weight.detach(), places[None])
        )
        self.width, self.position = mask.shape[1], mask.sum(1)
        self.mask: Tensor | None = None
        if not bool(mask.all()):
            padding = F.pad(mask == 0, (0, columns))
            self.mask = torch.zeros(padding.shape, device=mask.device)
            self.mask = self.mask.masked_fill(padding, -torch.inf)[:, None, None]

    def step(self, tokens: Tensor) -> Tensor:
        """Read `tokens[B]`, the rows' next ones; logits `[B,V]` of those after them."""
        self.width += 1
        angles = self.cos[self.position], self.sin[self.position]
        self.position = self.position + 1
        seen = _Seen(self.width, self.mask)
        hidden = self.embedding(tokens)
        for layer in self.layers:
            hidden = layer.step(hidden, angles, seen)
        logits: Tensor = self.head(_normed(self.norm, hidden))
        return logits

    def keep(self, rows: Tensor) -> None:
        """Go on with these rows alone."""
        self.position = self.position[rows]
        self.mask = None if self.mask is None else self.mask[rows]
        for layer in self.layers:
            layer.keep(rows)


class Lean(Cached):
    """The prompts are read by the model itself, what follows by the lean step."""

    def __init__(self, model: Any, ids: Tensor, mask: Tensor, columns: int) -> None:
        super().__init__(model, ids, mask, columns)
        self.columns = columns
        self.growing: _Step | None = None

    def next_logits(self) -> Tensor:
        if self.growing is None:
            return super().next_logits()
        return self.growing.step(self.tokens)

    def append(self, tokens: Tensor) -> None:
        if self.growing is None:
            prompts = self.mask[:, : self.width]
            self.growing = _Step(self.model, prompts, self.cache.layers, self.columns)
            self.cache = None
        self.tokens = tokens

    def keep(self, rows: Tensor) -> None:
        if self.growing is None:
            super().keep(rows)
        else:
            self.growing.keep(rows)
            self.tokens = self.tokens[rows]


def _normed(norm: Any, hidden: Tensor) -> Tensor:
    return F.rms_norm(hidden, hidden.shape[-1:], norm.weight, norm.variance_epsilon)
