"""How many rows are read and written at once: by their length and the model alone."""

from __future__ import annotations

import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from transformers import GPT2Config, LlamaConfig, T5Config

from chatllama_pipeline.models import heads
from chatllama_pipeline.models.chat.template import Example
from chatllama_pipeline.models.heads import load_reward, score_rows
from chatllama_pipeline.models.memory import passes
from chatllama_pipeline.models.memory.passes import (
    Shape,
    batches,
    read_bytes,
    rows_at_once,
    writing_rows,
)
from chatllama_pipeline.models.memory.sizes import size_of


def shape(config: Any) -> Shape:
    return Shape.of(size_of(config, {}), config)


SMOLLM = shape(
    LlamaConfig(
        vocab_size=49152,
        hidden_size=576,
        intermediate_size=1536,
        num_hidden_layers=30,
        num_attention_heads=9,
        num_key_value_heads=3,
    )
)


def test_sizes_are_read_of_every_family_s_config() -> None:
    # Two of keys and values x 3 heads x 64 x 30 layers.
    assert Shape(576, 1536, 49152, 2 * 3 * 64 * 30) == SMOLLM
    gpt2 = GPT2Config(n_embd=64, n_layer=2, n_head=4, vocab_size=100)
    assert shape(gpt2) == Shape(64, 256, 100, 2 * 64 * 2)
    t5 = T5Config(d_model=32, d_ff=48, num_layers=2, num_heads=2, d_kv=8, vocab_size=90)
    assert shape(t5) == Shape(32, 48, 90, 2 * 2 * (2 * 8 * 2))


def test_long_rows_of_a_large_model_are_read_a_few_at_once() -> None:
    # 4 x (256 x (10 x 576 + 4 x 1536)) = 12 MB a row; with logits 4 x 256 x 3 x 49,152 more.
    assert [len(range(*part.indices(70))) for part in batches([256] * 70, SMOLLM)] == [22] * 3 + [4]
    assert [part.stop - part.start for part in batches([256] * 3, SMOLLM, logits=True)] == [1] * 3
    assert [part.stop - part.start for part in batches([8] * 70, SMOLLM)] == [64, 6]
    roomy = batches([256] * 70, SMOLLM, bound=2**40)
    assert [part.stop - part.start for part in roomy] == [64, 6]


def test_every_row_is_read_once_and_no_batch_is_larger_than_is_small() -> None:
    lengths = [8, 900, 30, 30, 2000, 40_000, 5, *range(1, 500)]
    found = list(batches(lengths, SMOLLM))
    assert found[0].start == 0 and found[-1].stop == len(lengths)
    assert all(one.stop == other.start for one, other in pairwise(found))
    for part in found:
        rows = lengths[part]
        assert len(rows) == 1 or SMOLLM.reading(len(rows) * max(rows)) <= passes.SMALL_BYTES
    assert list(batches([], SMOLLM)) == []


def test_replies_are_written_in_caches_that_are_small_beside_the_weights() -> None:
    few = writing_rows(SMOLLM, 135_000_000, prompt=256, reply=256)
    assert 5 < few < 20
    # A quarter of 1.35 billion weights of 4 bytes is five times 256 MB.
    more = writing_rows(SMOLLM, 1_350_000_000, prompt=256, reply=256)
    assert more == pytest.approx(5 * few, rel=0.15)
    assert writing_rows(SMOLLM, 0, prompt=10**6, reply=256) == 1
    assert rows_at_once(1, most=64) == 64


def test_scores_do_not_depend_on_how_many_rows_are_read_at_once(
    tiny_base_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    model = load_reward(tiny_base_folder, torch.float32)
    rows = [Example([3 + n] * (5 + n), 2) for n in range(12)]
    together = score_rows(model, rows, 0)
    sizes: list[int] = []
    model.base_model.register_forward_pre_hook(
        lambda _, args, kwargs: sizes.append(len(kwargs["input_ids"])), with_kwargs=True
    )
    monkeypatch.setattr(passes, "SMALL_BYTES", 3 * 16 * 4 * (10 * 32 + 4 * 96))
    torch.testing.assert_close(score_rows(model, rows, 0), together)
    assert sum(sizes) == 12 and max(sizes) > 1 and len(sizes) > 3
    # As a GPU has it.
    sizes.clear()
    monkeypatch.setattr(heads, "read_bytes", lambda device: 2**30)
    torch.testing.assert_close(score_rows(model, rows, 0), together)
    assert sizes == [12]


def test_more_passes_at_once_through_a_gpu_by_what_it_has_in_all(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(passes, "gpu_total_bytes", lambda: 80 * 2**30)
    assert read_bytes("cuda") == 10 * 2**30
    assert read_bytes("cpu") == passes.SMALL_BYTES
    monkeypatch.setattr(passes, "gpu_total_bytes", lambda: None)
    assert read_bytes("cuda") == passes.SMALL_BYTES


def test_free_memory_has_no_say(monkeypatch: pytest.MonkeyPatch) -> None:
    def nothing() -> Any:
        raise AssertionError("asked what is free")

    monkeypatch.setattr(psutil, "virtual_memory", nothing)
    assert len(list(batches([256] * 70, SMOLLM))) == 4
    assert writing_rows(SMOLLM, 0, 10, 10) > 1


def test_it_needs_no_torch() -> None:
    program = (
        "import sys, chatllama_pipeline.models.memory.passes; sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
