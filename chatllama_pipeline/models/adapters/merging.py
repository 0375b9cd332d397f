"""Adapters added to the weights beneath them, and the proof that nothing else changes by it.

A layer computes as its weight plus the adapter's product only where the model calls the layer: one
that reads the weight itself (Mamba's step size), or shares it with another layer (a tied output),
would say something else once merged. So the outputs are compared, before an adapter is trained and
after each merge; a block's merged weights stand in memory at a time.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from peft.tuners.lora.layer import ParamWrapper
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn

from chatllama_pipeline.models.adapters.targets import is_linear
from chatllama_pipeline.models.families.kinds import Kind, kind_of
from chatllama_pipeline.models.sharding.parts import whole_shape
from chatllama_pipeline.progress import Phase, phase
from chatllama_pipeline.store.model_files import ADAPTER_NAME

# Ids that a comparison reads, and a prime that spreads them over a vocabulary.
COMPARED_IDS, STRIDE = 8, 7919
# Most that a merge may change, of the largest output and of what the adapter itself changes:
# float32 rounds to some 1e-6 of an output in each of many layers.
OF_OUTPUT, OF_EFFECT = 1e-4, 1e-3
# Deviation of the weights that a trial gives an adapter: its effect is then a tenth of an output.
TRIAL_DEVIATION = 0.02


class Layer(NamedTuple):
    """An adapted layer: its name, peft's module, and the parameter beneath it, by its owner."""

    name: str
    tuner: Any
    owner: nn.Module
    attribute: str

    @property
    def leaf(self) -> str:
        """What a person would call it: `q_proj`, or `gate_up_proj` of all experts."""
        if isinstance(self.tuner, ParamWrapper) and self.attribute != "weight":
            return self.attribute
        return self.name.removesuffix(".base_layer").rsplit(".", 1)[-1]

    @property
    def is_plain(self) -> bool:
        """Whether the layer computes with a weight alone; a router may be linear and more."""
        plain = not isinstance(self.owner, nn.Linear) or is_linear(self.owner)
        return plain and hasattr(self.owner, self.attribute)

    @property
    def parameter(self) -> nn.Parameter:
        return self.owner.get_parameter(self.attribute)

    def merged(self) -> nn.Parameter:
        """The weight with the adapter added, rounded once; a parameter of its own."""
        weight = self.parameter.detach()
        delta = self.tuner.get_delta_weight(ADAPTER_NAME).to(weight.device).float()
        return nn.Parameter((weight.float() + delta).to(weight.dtype), requires_grad=False)


def adapted_layers(model: Any) -> list[Layer]:
    """The layers of `model` that hold an adapter, innermost last where they nest (experts)."""
    found = []
    for name, module in model.named_modules():
        if isinstance(module, BaseTunerLayer):
            attribute = module.parameter_name if isinstance(module, ParamWrapper) else "weight"
            found.append(Layer(name, module, module.get_base_layer(), attribute))
    return found


@torch.no_grad()
def outputs(model: Any) -> torch.Tensor:
    """What `model` says of a few ids: a language model's logits, or a score for each, float32."""
    rows = whole_shape(model.get_input_embeddings().weight)[0]
    ids = (torch.arange(1, COMPARED_IDS + 1) * STRIDE % rows)[None].to(model.device)
    inputs: dict[str, Any] = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    kind, writes = kind_of(model.config), model.get_output_embeddings() is not None
    if kind is not Kind.ENCODER:
        inputs["use_cache"] = False
    if kind is Kind.ENCODER_DECODER:
        inputs["decoder_input_ids"] = ids
    with _without_dropout(model):
        if writes or kind is Kind.ENCODER:
            logits: torch.Tensor = model(**inputs).logits
            return logits.float()
        hidden: torch.Tensor = model.score(model.base_model(**inputs).last_hidden_state)
        return hidden.float()


@contextlib.contextmanager
def _without_dropout(model: nn.Module) -> Iterator[None]:
    """Within, `model` is in evaluation mode; afterwards each module is in the mode it was in."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True


def unmergeable(model: Any) -> list[str]:
    """Layers whose adapter counts for more or less once it is merged, by their last names.

    Whatever the adapter holds is held against the same model with merged weights.
    """
    layers = adapted_layers(model)
    if odd := {layer.leaf for layer in layers if not layer.is_plain}:
        return sorted(odd)
    with _hearing(layers) as called:
        apart = outputs(model)
    # BART's shared embedding stands beside those that are called, and shares their weight.
    if idle := {layer.leaf for layer in shared_layers(model, layers)} - called:
        return sorted(idle)
    with as_merged(model, layers, phase("tries its adapter merged", len(layers), "layers")):
        together = outputs(model)
    with _switched_off(layers):
        effect = _largest(apart - outputs(model))
    if agree(apart, together, effect):
        return []
    leaves = sorted({layer.leaf for layer in layers})
    culprits = []
    for leaf in leaves:
        with as_merged(model, [layer for layer in layers if layer.leaf == leaf]):
            if not agree(apart, outputs(model), effect):
                culprits.append(leaf)
    return culprits or leaves


@contextlib.contextmanager
def _hearing(layers: Sequence[Layer]) -> Iterator[set[str]]:
    """The last names of those layers that are called within."""
    called: set[str] = set()
    with contextlib.ExitStack() as stack:
        for layer in layers:
            hook = layer.tuner.register_forward_hook(
                lambda module, given, found, leaf=layer.leaf: called.add(leaf)
            )
            stack.callback(hook.remove)
        yield called


@contextlib.contextmanager
def tried(model: Any, seed: int) -> Iterator[None]:
    """Within, the adapter counts in every layer; afterwards it is, bit for bit, as before."""
    generator = torch.Generator().manual_seed(seed)
    weights = [p for name, p in model.named_parameters() if ".lora_" in name]
    before = [weight.detach().clone() for weight in weights]
    with torch.no_grad():
        for weight in weights:
            drawn = torch.randn(weight.shape, generator=generator) * TRIAL_DEVIATION
            weight.add_(drawn.to(weight))
    try:
        yield
    finally:
        with torch.no_grad():
            for weight, kept in zip(weights, before, strict=True):
                weight.copy_(kept)


@contextlib.contextmanager
def as_merged(model: Any, layers: Sequence[Layer], counter: Phase | None = None) -> Iterator[None]:
    """Within, `layers` compute as if merged; each block's weights are added up while it runs.

    Each time is counted by `counter`.
    """
    blocks: dict[nn.Module, list[Layer]] = {}
    for layer in layers:
        blocks.setdefault(_block_of(model, layer.name), []).append(layer)
    with contextlib.ExitStack() as stack:
        stack.enter_context(_switched_off(layers))
        for block, inside in blocks.items():
            swap = _Swap(inside, counter)
            for handle in (
                block.register_forward_pre_hook(swap.put_merged),
                block.register_forward_hook(swap.put_back, always_call=True),
            ):
                stack.callback(handle.remove)
        yield


class _Swap:
    """A block's weights, merged while its forward runs."""

    def __init__(self, layers: Sequence[Layer], counter: Phase | None) -> None:
        self.layers, self.counter = layers, counter
        self.kept: list[nn.Parameter] = []

    def put_merged(self, *_: Any) -> None:
        self.kept = [layer.parameter for layer in self.layers]
        for layer, merged in [(layer, layer.merged()) for layer in self.layers]:
            setattr(layer.owner, layer.attribute, merged)
        if self.counter:
            self.counter.advance(len(self.layers))

    def put_back(self, *_: Any) -> None:
        for layer, parameter in zip(self.layers, self.kept, strict=False):
            setattr(layer.owner, layer.attribute, parameter)
        self.kept = []


def _block_of(model: Any, name: str) -> nn.Module:
    """The module whose forward runs the layer of that name: lists of layers have none."""
    parent = name
    while parent:
        parent = parent.rpartition(".")[0]
        module: nn.Module = model.get_submodule(parent)
        if not isinstance(module, nn.ModuleList | nn.ModuleDict | BaseTunerLayer):
            return module
    return model  # type: ignore[no-any-return]


@contextlib.contextmanager
def _switched_off(layers: Sequence[Layer]) -> Iterator[None]:
    learns = [(p, p.requires_grad) for layer in layers for p in layer.tuner.parameters()]
    for layer in layers:
        layer.tuner.enable_adapters(False)
    try:
        yield
    finally:
        for layer in layers:
            layer.tuner.enable_adapters(True)
        for parameter, learnt in learns:
            parameter.requires_grad_(learnt)


def merge(model: Any) -> bool:
    """Merge every adapted layer; whether the model says what `as_merged` had said it would.

    What shared a weight with an adapted layer keeps it as it was. Where that unties a model's
    embeddings, its config says so, and every tied weight gets a copy.
    """
    layers = adapted_layers(model)
    counter = phase("merges its adapter", 2 * len(layers), "layers")
    with as_merged(model, layers, counter):
        expected = outputs(model)
    untied = bool(shared_layers(model, layers))
    for layer in layers:
        setattr(layer.owner, layer.attribute, layer.merged())
        counter.advance()
    above = [(model.get_submodule(layer.name.rpartition(".")[0]), layer) for layer in layers]
    for parent, layer in above:
        if not isinstance(parent, BaseTunerLayer):  # experts' adapters stand in one another
            setattr(parent, layer.name.rpartition(".")[2], layer.tuner.get_base_layer())
    if untied:
        _untie(model)
    return agree(expected, outputs(model))


def shared_layers(model: Any, layers: Sequence[Layer]) -> list[Layer]:
    """Those of `layers` whose weight is another layer's too, such as a tied output."""
    uses: dict[int, int] = {}
    for _, parameter in model.named_parameters(remove_duplicate=False):
        uses[id(parameter)] = uses.get(id(parameter), 0) + 1
    return [layer for layer in layers if uses[id(layer.parameter)] > 1]


def can_untie(model: Any) -> bool:
    """Whether a saved `model` could be loaded with its tied weights apart, and say the same."""
    config = type(model.config).from_dict({**model.config.to_dict(), "tie_word_embeddings": False})
    # T5's config is tied whatever it is told.
    if config.tie_word_embeddings:
        return False
    bare = without_weights(type(model), config)
    if bare is None:
        return False
    names = [name for name, _ in bare.named_parameters()]
    apart = len(names) == len(list(bare.named_parameters(remove_duplicate=False)))
    return apart and _minds_no_tie(model)


def _minds_no_tie(model: Any) -> bool:
    """Whether `model` says the same where its config says that nothing is tied.

    Switch Transformers scale what goes into a tied output.
    """
    expected, tied = outputs(model), model.config.tie_word_embeddings
    model.config.tie_word_embeddings = False
    try:
        return agree(expected, outputs(model))
    finally:
        model.config.tie_word_embeddings = tied


def without_weights(kind: Any, config: Any) -> Any | None:
    """A model of that class whose weights take no memory; None where its code asks for numbers."""
    try:
        with torch.device("meta"):
            return kind(config)
    except (RuntimeError, NotImplementedError):
        return None


def _untie(model: Any) -> None:
    for target, source in model.all_tied_weights_keys.items():
        parameter = model.get_parameter(target)
        if parameter is model.get_parameter(source):
            owner, _, attribute = target.rpartition(".")
            own = nn.Parameter(parameter.detach().clone(), parameter.requires_grad)
            setattr(model.get_submodule(owner), attribute, own)
    model.all_tied_weights_keys = {}
    model.config.tie_word_embeddings = False


def agree(said: torch.Tensor, now: torch.Tensor, effect: float = 0.0) -> bool:
    """Whether two `outputs` are the same but for rounding, where an adapter moves them by `effect`.

    What isn't finite agrees with nothing.
    """
    return _largest(said - now) <= OF_OUTPUT * _largest(said) + OF_EFFECT * effect


def _largest(values: torch.Tensor) -> float:
    return float(values.abs().max())
