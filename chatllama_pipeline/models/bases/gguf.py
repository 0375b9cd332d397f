"""Base models as llama.cpp's format, GGUF, has them: read by transformers, made ordinary models.

transformers rebuilds config, weights and tokenizer from the file, and passes over what it has no
place for: that is looked for here, lest a model that is slightly another one be trained.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from transformers import AutoConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from chatllama_pipeline.errors import SettingsError

MAGIC = b"GGUF"
# Types of numbers that hold what the model was saved with; all others are rounded ones.
EXACT = ("F64", "F32", "F16", "BF16")
ROPE_FACTORS = "rope_freqs.weight"
OUTPUT = "output.weight"
# As Llama 3.1 to 3.3 are published; a file holds the factors alone that follow from these.
LLAMA3_ROPE = {
    "rope_type": "llama3",
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}
CURE = "name the model that it was made from, as a hub id or a folder"


@dataclass(frozen=True)
class GgufFile:
    """What a GGUF file says of itself. `told` is the setting that names it, for messages.

    `numbers` counts the values of each tensor; `factors` are those of Llama 3's rotary positions.
    """

    path: Path
    told: str
    architecture: str
    name: str | None
    license: str | None
    quantization: str
    rounded: bool
    rope_scaling: str | None
    numbers: dict[str, int]
    factors: torch.Tensor | None

    @property
    def metrics(self) -> dict[str, str]:
        """What a version's manifest keeps of the file."""
        return {
            "gguf_name": self.name or self.path.name,
            "gguf_quantization": self.quantization,
            "gguf_license": self.license or "not named in the file",
        }

    @property
    def warning(self) -> str:
        """What a person should know of a base that was read from a GGUF file."""
        first = f"{self.told}: {self.path.name} ({self.quantization}) was read as GGUF"
        if self.rounded:
            first += (
                "; its rounded weights were dequantized to float32 and stay as rough as they were, "
                "so that the model it was made from is the better base"
            )
        return f"{first}; its tokenizer was rebuilt from it where tokenizer_path names no other"


def read_gguf(path: Path, told: str) -> GgufFile:
    """The header of the GGUF file at `path`, which the setting `told` names.

    Raises SettingsError where the file is none, is cut short or is a part of several.
    """
    from gguf import GGUFReader

    with path.open("rb") as handle:
        if handle.read(len(MAGIC)) != MAGIC:
            raise SettingsError(f"{told}: {path} is no GGUF file: it doesn't begin with GGUF")
    try:
        reader = GGUFReader(path)
        file = _described(reader, path, told)
        parts = _value(reader, "split.count")
    except (ValueError, IndexError, KeyError, OverflowError, MemoryError) as error:
        raise SettingsError(
            f"{told}: {path} is cut short or damaged ({type(error).__name__}: {error}): copy or "
            "download it again"
        ) from error
    if parts is not None and parts > 1:
        raise SettingsError(
            f"{told}: {path} is one of {parts} parts: join them first (llama.cpp's "
            "llama-gguf-split --merge), and name the whole"
        )
    return file


def _described(reader: Any, path: Path, told: str) -> GgufFile:
    from gguf import LlamaFileType

    architecture = _value(reader, "general.architecture")
    if architecture is None:
        raise ValueError("it names no architecture")
    kinds = {tensor.tensor_type.name for tensor in reader.tensors}
    file_type = _value(reader, "general.file_type")
    if file_type in LlamaFileType.__members__.values():
        quantization = LlamaFileType(file_type).name.removeprefix("MOSTLY_").removeprefix("ALL_")
    else:
        quantization = ", ".join(sorted(kinds))
    factors = next((t.data for t in reader.tensors if t.name == ROPE_FACTORS), None)
    return GgufFile(
        path=path,
        told=told,
        architecture=architecture,
        name=_value(reader, "general.name"),
        license=_value(reader, "general.license"),
        quantization=quantization,
        rounded=not kinds <= set(EXACT),
        rope_scaling=_value(reader, f"{architecture}.rope.scaling.type"),
        numbers={tensor.name: int(tensor.n_elements) for tensor in reader.tensors},
        factors=None if factors is None else torch.from_numpy(np.array(factors, np.float32)),
    )


def _value(reader: Any, key: str) -> Any:
    field = reader.get_field(key)
    return None if field is None else field.contents()


def gguf_config(file: GgufFile) -> Any:
    """The config that transformers makes of the file, with Llama 3's rotary positions.

    Raises SettingsError where transformers can't read the architecture, or would compute other
    positions than the model was trained with.
    """
    try:
        config = AutoConfig.from_pretrained(str(file.path.parent), gguf_file=file.path.name)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise SettingsError(
            f"{file.told}: transformers {transformers.__version__} can't read the architecture "
            f"{file.architecture} from {file.path} ({error}): {CURE}"
        ) from error
    if file.factors is not None:
        _take_factors(config, file)
    rope = getattr(config, "rope_parameters", None) or {}
    if file.rope_scaling not in (None, "none") and rope.get("rope_type") == "default":
        raise SettingsError(
            f"{file.told}: {file.path} stretches its positions ({file.rope_scaling}), which "
            f"transformers {transformers.__version__} doesn't read from a {file.architecture}: "
            f"{CURE}"
        )
    return config


def _take_factors(config: Any, file: GgufFile) -> None:
    """Put the positions of Llama 3.1 and later into `config`, checked against the file's."""
    assert file.factors is not None
    plain = copy.deepcopy(config.rope_parameters) or {}
    stretched = {**plain, **LLAMA3_ROPE, "factor": float(file.factors.max())}
    config.rope_parameters = stretched
    made, _ = ROPE_INIT_FUNCTIONS["llama3"](config, torch.device("cpu"))
    steps = torch.arange(len(file.factors), dtype=torch.float32) / len(file.factors)
    expected = 1.0 / (plain["rope_theta"] ** steps) / file.factors
    if made.shape != expected.shape or not torch.allclose(made, expected, rtol=1e-4):
        raise SettingsError(
            f"{file.told}: {file.path} has factors of its rotary positions ({ROPE_FACTORS}) that "
            f"aren't Llama 3's, and transformers reads no others: {CURE}"
        )


def gguf_arguments(file: GgufFile) -> dict[str, Any]:
    """What makes `from_pretrained` read the file's weights as plain float32 ones."""
    arguments: dict[str, Any] = {"gguf_file": file.path.name, "dtype": torch.float32}
    packed = getattr(transformers, "GgufConfig", None)
    # Versions that have it keep the blocks where a kernel for them is installed.
    return (
        arguments
        if packed is None
        else {**arguments, "quantization_config": packed(dequantize=True)}
    )


def as_plain_model(model: Any, file: GgufFile) -> Any:
    """`model`, read from a GGUF file, as one that can be trained and saved: the same weights.

    Raises SettingsError where the file has numbers that found no place in it.
    """
    tied = bool(getattr(model.config, "tie_word_embeddings", False))
    passed = {ROPE_FACTORS, OUTPUT} if tied else {ROPE_FACTORS}
    held = sum(count for name, count in file.numbers.items() if name not in passed)
    state = model.state_dict()
    taken = sum({tensor.data_ptr(): tensor.numel() for tensor in state.values()}.values())
    if held > taken:
        raise SettingsError(
            f"{file.told}: {file.path} holds {held:,} numbers, and transformers' "
            f"{type(model).__name__} has a place for {taken:,} of them (biases, or factors of "
            f"positions, would be lost): {CURE}"
        )
    config = copy.deepcopy(model.config)
    vars(config).pop("quantization_config", None)
    plain = type(model)._from_config(config, dtype=torch.float32)
    plain.load_state_dict(state, assign=True)
    plain.tie_weights()
    plain.generation_config = model.generation_config
    return plain
