"""A GGUF file of float16 rounded to fewer bits: ggml's own arithmetic, llama.cpp's choice of types.

What is no matrix stays as it is. A matrix whose rows are no multiple of a type's block takes the
type that llama.cpp falls back to.
"""

from __future__ import annotations

import ctypes
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from gguf import (
    GGML_QUANT_SIZES,
    GGMLQuantizationType,
    GGUFReader,
    GGUFValueType,
    GGUFWriter,
    Keys,
    LlamaFileType,
)
from gguf.quants import dequantize, quant_shape_to_byte_shape

F16, Q8_0 = GGMLQuantizationType.F16, GGMLQuantizationType.Q8_0
Q4_K, Q5_K, Q6_K = (GGMLQuantizationType[name] for name in ("Q4_K", "Q5_K", "Q6_K"))
Q5_0, Q5_1 = GGMLQuantizationType.Q5_0, GGMLQuantizationType.Q5_1
FILE_TYPES = {"q8_0": LlamaFileType.MOSTLY_Q8_0, "q4_k_m": LlamaFileType.MOSTLY_Q4_K_M}
FALLBACKS = {Q4_K: Q5_0, Q5_K: Q5_1, Q6_K: Q8_0, Q8_0: F16, Q5_0: F16, Q5_1: F16}
EMBEDDING, OUTPUT = "token_embd.weight", "output.weight"
# Matrices that llama.cpp leaves as they are: small, and much hangs on them.
KEPT = re.compile(r"_norm\.weight|ffn_gate_inp|position_embd|token_types|ssm_conv1d|time_mix")
_LAYER = re.compile(r"blk\.(\d+)\.(\w+)\.weight")


def round_weights(source: Path, kind: str, target: Path) -> None:
    """Write the file `source` to `target` as `kind`, one of `FILE_TYPES`."""
    reader = GGUFReader(source)
    architecture = _value(reader, Keys.General.ARCHITECTURE)
    writer = GGUFWriter(target, architecture)
    _copy_fields(reader, writer)
    writer.add_file_type(FILE_TYPES[kind])
    writer.add_quantization_version(2)
    layers = int(_value(reader, Keys.LLM.BLOCK_COUNT.format(arch=architecture)))
    names = {tensor.name for tensor in reader.tensors}
    chosen = {one.name: _type_of(one, kind, layers, names) for one in reader.tensors}
    for tensor in reader.tensors:
        _describe(writer, tensor, chosen[tensor.name])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for tensor in reader.tensors:
        writer.write_tensor_data(_data(tensor, chosen[tensor.name]))
    writer.close()


def types_of(file: Path) -> Mapping[str, GGMLQuantizationType]:
    """Tensor -> the type of its numbers."""
    return {tensor.name: tensor.tensor_type for tensor in GGUFReader(file).tensors}


def _value(reader: GGUFReader, key: str) -> Any:
    field = reader.get_field(key)
    assert field is not None
    return field.contents()


def _copy_fields(reader: GGUFReader, writer: GGUFWriter) -> None:
    own = (Keys.General.ARCHITECTURE, Keys.General.FILE_TYPE, Keys.General.QUANTIZATION_VERSION)
    for field in reader.fields.values():
        if field.name in own or field.name.startswith("GGUF."):
            continue
        inner = field.types[-1] if field.types[0] is GGUFValueType.ARRAY else None
        writer.add_key_value(field.name, field.contents(), field.types[0], sub_type=inner)


def _type_of(tensor: Any, kind: str, layers: int, names: set[str]) -> GGMLQuantizationType:
    shape = tensor.data.shape
    is_matrix = len(shape) > 1 and tensor.name.endswith("weight")
    if not is_matrix or KEPT.search(tensor.name):
        return GGMLQuantizationType(tensor.tensor_type)
    wanted = Q8_0 if kind == "q8_0" else _mixed(tensor.name, layers, names)
    while shape[-1] % GGML_QUANT_SIZES[wanted][0]:
        wanted = FALLBACKS[wanted]
    return wanted


def _mixed(name: str, layers: int, names: set[str]) -> GGMLQuantizationType:
    """The type in llama.cpp's Q4_K_M: more bits where the most is lost."""
    # Where the embedding is also what chooses tokens, it is kept as that is.
    if name == OUTPUT or (name == EMBEDDING and OUTPUT not in names):
        return Q6_K
    found = _LAYER.fullmatch(name)
    if found is None:
        return Q4_K
    layer, part = int(found[1]), found[2]
    if part == "attn_qkv":
        return Q5_K
    eighth = layers // 8
    outer = layer < eighth or layer >= 7 * layers // 8
    precise = outer or (layer - eighth) % 3 == 2
    return Q6_K if precise and part in ("attn_v", "ffn_down") else Q4_K


def _describe(writer: GGUFWriter, tensor: Any, kind: GGMLQuantizationType) -> None:
    if kind == tensor.tensor_type:
        shape, dtype = tensor.data.shape, tensor.data.dtype
        writer.add_tensor_info(tensor.name, shape, dtype, tensor.data.nbytes, raw_dtype=kind)
        return
    shape = quant_shape_to_byte_shape(tensor.data.shape, kind)
    writer.add_tensor_info(
        tensor.name, shape, np.dtype(np.uint8), int(np.prod(shape)), raw_dtype=kind
    )


def _data(tensor: Any, kind: GGMLQuantizationType) -> Any:
    if kind == tensor.tensor_type:
        return tensor.data
    numbers = np.ascontiguousarray(dequantize(tensor.data, tensor.tensor_type), np.float32)
    columns = numbers.shape[-1]
    rounded = np.empty(quant_shape_to_byte_shape(numbers.shape, kind), np.uint8)
    written = _ggml().ggml_quantize_chunk(
        int(kind), numbers.ctypes, rounded.ctypes, 0, numbers.size // columns, columns, None
    )
    assert written == rounded.nbytes
    return rounded


def _ggml() -> Any:
    """ggml, the arithmetic of llama.cpp, by its C interface in the library that runs the files."""
    from xllamacpp import xllamacpp

    library = ctypes.CDLL(xllamacpp.__file__)
    call = library.ggml_quantize_chunk
    many = ctypes.c_int64
    pointers = (ctypes.c_void_p, ctypes.c_void_p)
    call.argtypes = [ctypes.c_int, *pointers, many, many, many, ctypes.c_void_p]
    call.restype = ctypes.c_size_t
    return library
