"""A wide model made narrow: few words, and matrices that read a few of their inputs.

What a probe compares are two ways of reading the same row, and caches, masks and positions act in
them whatever the numbers between: few of those show as much as all, at a fraction of the time.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from chatllama_pipeline.models.probe.depth import first_layers
from chatllama_pipeline.models.probe.rows import WORDS

# Inputs of a matrix that are kept, evenly spread.
INPUTS = 128
# A cut that saves less is not worth its doubt.
LEAST_SAVED = 2


@contextmanager
def narrowed(model: Any) -> Iterator[bool]:
    """`model` with its first layers, words and few inputs; whether any words or inputs were cut.

    What a matrix reads is scaled, so that it says numbers of the size that it would say of all.
    """
    words = model.config.get_text_config().vocab_size
    with first_layers(model), ExitStack() as undone:
        cut = [_cut_words(module, words, undone) for module in model.modules()]
        cut += [_cut_inputs(module, undone) for module in model.modules()]
        yield any(cut)


def _cut_words(module: nn.Module, words: int, undone: ExitStack) -> bool:
    """Keep the first `WORDS` of what `module` has for each of all `words`."""
    if words < LEAST_SAVED * WORDS:
        return False
    found = False
    for held in (module._parameters, module._buffers):
        for name, tensor in held.items():
            if tensor is not None and words in tensor.shape:
                _replace(held, name, tensor.narrow(tensor.shape.index(words), 0, WORDS), undone)
                found = True
    if isinstance(module, nn.Embedding) and found and (module.padding_idx or 0) >= WORDS:
        undone.callback(setattr, module, "padding_idx", module.padding_idx)
        module.padding_idx = None
    return found


def _cut_inputs(module: nn.Module, undone: ExitStack) -> bool:
    """Let a plain matrix read every n-th of its inputs."""
    if type(module) not in (nn.Linear, Conv1D):
        return False
    weight = module._parameters["weight"]
    assert weight is not None
    axis = 1 if type(module) is nn.Linear else 0
    step = weight.shape[axis] // INPUTS
    if step < LEAST_SAVED:
        return False
    _replace(module._parameters, "weight", weight[:, ::step] if axis else weight[::step], undone)

    def read(module: nn.Module, inputs: tuple[Tensor, ...]) -> Tensor:
        few: Tensor = inputs[0][..., ::step] * step**0.5
        return few.contiguous()

    undone.callback(module.register_forward_pre_hook(read).remove)
    return True


def _replace(held: dict[str, Any], name: str, part: Tensor, undone: ExitStack) -> None:
    """Put a copy of `part` of a parameter or buffer in its place for a while."""
    undone.callback(held.__setitem__, name, held[name])
    copied = part.detach().contiguous()
    held[name] = nn.Parameter(copied, False) if isinstance(held[name], nn.Parameter) else copied
