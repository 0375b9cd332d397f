"""GGUF files as bases: tiny Llamas that llama.cpp's own library wrote, against what they were."""

from __future__ import annotations

import importlib.util
import json
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from chatllama_pipeline.errors import SettingsError
from chatllama_pipeline.models.bases.build import run
from chatllama_pipeline.models.bases.gguf import LLAMA3_ROPE
from chatllama_pipeline.records import Outcome
from tests.models.gguf_files import write_gguf
from tests.tiny import QUIET, MakeSpec

IDS = torch.arange(4, 60)[None]
TAKES = count()


def base(make_spec: MakeSpec, model: Path | str, **values: Any) -> tuple[Path, Outcome]:
    """What actor_base makes of `model`."""
    settings = {"actor_config": {"model": str(model), **values}}
    spec = make_spec("actor_base", settings, {}, take=str(next(TAKES)))
    outcome = run(spec, QUIET)
    return Path(spec.output), outcome


def refused(make_spec: MakeSpec, model: Path | str, said: str, **values: Any) -> None:
    with pytest.raises(SettingsError, match=said):
        base(make_spec, model, **values)


def logits(folder: Path) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = AutoModelForCausalLM.from_pretrained(folder)(input_ids=IDS).logits
    return found


def test_a_gguf_file_becomes_the_folder_that_it_was_made_from(
    make_spec: MakeSpec, tiny_base_folder: Path, tiny_gguf: Path
) -> None:
    made, outcome = base(make_spec, tiny_gguf)
    assert torch.allclose(logits(made), logits(tiny_base_folder), atol=1e-6)
    config = json.loads((made / "config.json").read_text())
    assert config["architectures"] == ["LlamaForCausalLM"]
    assert "quantization_config" not in config and config["dtype"] == "float32"
    assert str(tiny_gguf.parent) not in "".join(
        path.read_text(errors="ignore") for path in made.iterdir()
    )
    ours, theirs = (AutoTokenizer.from_pretrained(path) for path in (made, tiny_base_folder))
    talk = [{"role": "user", "content": "alpha bravo, 1234 naïve ☃"}]
    assert ours.apply_chat_template(talk) == theirs.apply_chat_template(talk)
    assert (ours.eos_token, ours.pad_token) == (theirs.eos_token, theirs.pad_token)
    assert outcome.metrics.pop("probe").startswith("decodes as it scores")
    assert outcome.metrics == {
        "parameters": AutoModelForCausalLM.from_pretrained(tiny_base_folder).num_parameters(),
        "revision": "local",
        "gguf_name": "Tiny Llama",
        "gguf_quantization": "F32",
        "gguf_license": "apache-2.0",
    }
    told = outcome.warnings[0]
    assert "tiny.gguf (F32) was read as GGUF" in told and "dequantized" not in told


def test_rounded_weights_are_dequantized_with_a_warning(
    make_spec: MakeSpec, tiny_base_folder: Path, tmp_path: Path
) -> None:
    made, outcome = base(make_spec, write_gguf(tiny_base_folder, tmp_path / "q.gguf", "Q8_0"))
    assert outcome.metrics["gguf_quantization"] == "Q8_0"
    assert "q.gguf (Q8_0)" in outcome.warnings[0]
    assert "dequantized to float32" in outcome.warnings[0]
    before = AutoModelForCausalLM.from_pretrained(tiny_base_folder).state_dict()
    after = AutoModelForCausalLM.from_pretrained(made).state_dict()
    assert after.keys() == before.keys()
    for name, weight in after.items():
        assert weight.dtype == torch.float32
        # A block of 32 numbers is rounded to 127 steps of its largest, a float16.
        step = before[name].abs().max() / 127
        assert (weight - before[name]).abs().max() <= 0.6 * step
    assert not torch.equal(after["lm_head.weight"], before["lm_head.weight"])


def test_a_reward_base_is_read_from_a_gguf_file_too(
    make_spec: MakeSpec, tiny_base_folder: Path, tiny_gguf: Path
) -> None:
    spec = make_spec("reward_base", {"reward_config": {"model": str(tiny_gguf)}}, {})
    outcome = run(spec, QUIET)
    assert torch.allclose(logits(Path(spec.output)), logits(tiny_base_folder), atol=1e-6)
    assert outcome.warnings[0].startswith("reward_config.model: tiny.gguf")


def test_another_tokenizer_goes_before_the_one_in_the_file(
    make_spec: MakeSpec, tiny_base_folder: Path, tiny_gguf: Path, tmp_path: Path
) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_base_folder)
    tokenizer.chat_template = tokenizer.chat_template + "{# another #}"
    tokenizer.save_pretrained(tmp_path / "other")
    made, _ = base(make_spec, tiny_gguf, tokenizer_path=str(tmp_path / "other"))
    assert AutoTokenizer.from_pretrained(made).chat_template.endswith("{# another #}")


def test_a_folder_with_a_gguf_file_reads_the_one_that_is_named(
    make_spec: MakeSpec, tiny_base_folder: Path, tiny_gguf: Path
) -> None:
    made, _ = base(make_spec, tiny_gguf.parent, gguf_file="tiny.gguf")
    assert torch.allclose(logits(made), logits(tiny_base_folder), atol=1e-6)


def test_a_folder_of_gguf_files_alone_says_which_to_name(
    make_spec: MakeSpec, tiny_gguf: Path
) -> None:
    refused(make_spec, tiny_gguf.parent, r"to read tiny\.gguf, set gguf_file in the same section")
    refused(
        make_spec,
        tiny_gguf.parent,
        r"no file other\.gguf: set .* \(tiny\.gguf\)",
        gguf_file="other.gguf",
    )


def test_the_positions_of_llama_3_are_those_that_the_files_factors_give(
    make_spec: MakeSpec, tiny_base_folder: Path, tmp_path: Path
) -> None:
    config = AutoConfig.from_pretrained(tiny_base_folder)
    theta = config.rope_parameters["rope_theta"]
    plain, _ = ROPE_INIT_FUNCTIONS["linear"](
        AutoConfig.from_pretrained(
            tiny_base_folder,
            rope_parameters={"rope_type": "linear", "rope_theta": theta, "factor": 1.0},
        ),
        "cpu",
    )
    config.rope_parameters = {**LLAMA3_ROPE, "rope_theta": theta, "factor": 32.0}
    stretched, _ = ROPE_INIT_FUNCTIONS["llama3"](config, "cpu")
    factors = (plain / stretched).numpy().astype(np.float32)
    assert factors.max() == 32.0
    path = write_gguf(
        tiny_base_folder, tmp_path / "l3.gguf", extra_tensors={"rope_freqs.weight": factors}
    )
    made, _ = base(make_spec, path)
    original = LlamaForCausalLM.from_pretrained(tiny_base_folder, config=config)
    with torch.no_grad():
        assert torch.allclose(logits(made), original(input_ids=IDS).logits, atol=1e-6)
    odd = write_gguf(
        tiny_base_folder, tmp_path / "odd.gguf", extra_tensors={"rope_freqs.weight": factors * 1.5}
    )
    refused(make_spec, odd, r"odd\.gguf has factors .*aren't Llama 3's.*name the model that it was")


@pytest.mark.parametrize(
    ("extra", "said"),
    [
        (
            {"extra_tensors": {"blk.0.attn_q.bias": np.ones(32, np.float32)}},
            r"holds [\d,]+ numbers, and .*LlamaForCausalLM has a place for .*name the model",
        ),
        (
            {"extra_keys": {"llama.rope.scaling.type": "yarn"}},
            r"stretches its positions \(yarn\).*name the model that it was made from",
        ),
        ({"extra_keys": {"split.count": 3}}, r"is one of 3 parts: join them first"),
        (
            {"architecture": "rwkv6"},
            r"can't read the architecture rwkv6 .*name the model that it was made from",
        ),
    ],
)
def test_a_file_that_would_be_read_as_another_model_is_refused(
    make_spec: MakeSpec, tiny_base_folder: Path, tmp_path: Path, extra: dict[str, Any], said: str
) -> None:
    path = write_gguf(tiny_base_folder, tmp_path / "m.gguf", **extra)
    refused(make_spec, path, rf"actor_config\.model: .*{said}")


def test_what_is_no_gguf_file_is_refused(make_spec: MakeSpec, tmp_path: Path) -> None:
    (tmp_path / "page.gguf").write_text("<html>Entry not found</html>")
    refused(make_spec, tmp_path / "page.gguf", r"actor_config\.model: .*page\.gguf is no GGUF file")
    (tmp_path / "empty.gguf").write_bytes(b"")
    refused(make_spec, tmp_path / "empty.gguf", r"empty\.gguf is no GGUF file")
    refused(make_spec, tmp_path / "nowhere.gguf", r"the file .*nowhere\.gguf does not exist")


@pytest.mark.parametrize("share", [0.001, 0.05, 0.3, 0.6, 0.999])
def test_a_file_that_was_cut_short_is_refused(
    make_spec: MakeSpec, tiny_gguf: Path, tmp_path: Path, share: float
) -> None:
    whole = tiny_gguf.read_bytes()
    (tmp_path / "cut.gguf").write_bytes(whole[: max(4, int(len(whole) * share))])
    refused(make_spec, tmp_path / "cut.gguf", r"cut\.gguf is cut short or damaged .*download it")


def test_without_the_package_the_command_that_installs_it_is_told(
    make_spec: MakeSpec, tiny_gguf: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if name == "gguf" else find(name)
    )
    refused(
        make_spec,
        tiny_gguf,
        r"are read with the package gguf: \.venv/bin/pip install -c constraints",
    )


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"model": "scratch", "gguf_file": "a.gguf"}, "remove gguf_file"),
        ({"model": "a.gguf", "gguf_file": "a.gguf"}, "remove gguf_file"),
        ({"model": "some/model", "gguf_file": "a.bin"}, r"doesn't end in \.gguf"),
    ],
)
def test_a_gguf_file_that_contradicts_the_model_is_an_error_of_the_settings(
    make_spec: MakeSpec, values: dict[str, Any], said: str
) -> None:
    with pytest.raises(ValueError, match=said):
        base(make_spec, **values)
