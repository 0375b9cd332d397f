"""What is tried of a base before it is published: what is mended, refused, and what it costs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    DynamicCache,
    FNetConfig,
    Gemma3TextConfig,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    LlamaForSequenceClassification,
    MraConfig,
)
from transformers.models.gemma3.modeling_gemma3 import Gemma3ForCausalLM

from chatllama_pipeline.errors import SettingsError
from chatllama_pipeline.models.bases.build import run
from chatllama_pipeline.models.bases.preflight import preflight
from chatllama_pipeline.models.chat.template import stop_ids
from chatllama_pipeline.models.families.manner import Manner, manner_of
from chatllama_pipeline.models.heads import load_actor, load_reward
from chatllama_pipeline.models.loading import load_config
from chatllama_pipeline.models.probe.base import _tried
from chatllama_pipeline.models.probe.depth import first_layers
from chatllama_pipeline.models.probe.failure import Failure
from chatllama_pipeline.models.probe.language import probe_language
from chatllama_pipeline.models.probe.rows import WORDS, Rows, probe_rows
from chatllama_pipeline.models.probe.scoring import probe_scoring
from chatllama_pipeline.models.probe.width import narrowed
from chatllama_pipeline.records import Outcome
from chatllama_pipeline.serving.release import _generation_config
from chatllama_pipeline.settings import ActorSettings
from tests.families.every import make
from tests.families.kit import widened
from tests.tiny import QUIET, MakeSpec

SIZES = {
    "vocab_size": 320,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 96,
    "pad_token_id": 0,
}


def wide(model: Any) -> Any:
    """Weights so wide that what a model reads changes what it says."""
    torch.manual_seed(0)
    return widened(model).eval()


@pytest.fixture
def rows(tiny_base_folder: Path) -> Rows:
    return probe_rows(AutoTokenizer.from_pretrained(tiny_base_folder), 320)


class Forgetful(LlamaForCausalLM):
    """Reads each token behind a cache as if it were the first."""

    def forward(
        self,
        input_ids: Any,
        attention_mask: Any = None,
        position_ids: Any = None,
        past_key_values: Any = None,
        use_cache: bool = False,
    ) -> Any:
        mask = None if attention_mask is None else attention_mask[:, -input_ids.shape[1] :]
        return super().forward(
            input_ids, attention_mask=mask, position_ids=position_ids, use_cache=use_cache
        )


class Uncut(DynamicCache):
    def reorder_cache(self, beam_idx: Any) -> None:
        raise NotImplementedError


class Gathered(LlamaForCausalLM):
    """Has a cache that no row can leave."""

    def forward(
        self,
        input_ids: Any,
        attention_mask: Any = None,
        position_ids: Any = None,
        past_key_values: Any = None,
        use_cache: bool = False,
    ) -> Any:
        cache = past_key_values or (Uncut(config=self.config) if use_cache else None)
        return super().forward(input_ids, attention_mask, position_ids, cache, use_cache=use_cache)


class Blind(LlamaForCausalLM):
    """Attends to padding as if it were words."""

    def forward(self, input_ids: Any, use_cache: bool = False, **inputs: Any) -> Any:
        return super().forward(input_ids=input_ids, use_cache=False, logits_to_keep=0)


class Foreseeing(LlamaForCausalLM):
    """Knows of every token what follows it."""

    def forward(self, input_ids: Any, attention_mask: Any = None, **inputs: Any) -> Any:
        output = super().forward(input_ids=input_ids, attention_mask=attention_mask)
        output.logits = output.logits + output.logits.flip(1).cumsum(1).flip(1)
        return output


class Crowded(LlamaForCausalLM):
    """Says of a row what its neighbours say too."""

    def forward(self, *arguments: Any, **inputs: Any) -> Any:
        output = super().forward(*arguments, **inputs)
        output.logits = output.logits + output.logits.mean(0, keepdim=True)
        return output


@pytest.mark.parametrize(
    ("kind", "manner"),
    [
        (LlamaForCausalLM, Manner()),
        (Gathered, Manner("rows stay")),
        (Forgetful, Manner("whole")),
        (Blind, Manner("whole", left_padded=False)),
    ],
)
def test_it_finds_the_quickest_manner_in_which_a_model_decodes_as_it_scores(
    kind: Any, manner: Manner, rows: Rows
) -> None:
    model = wide(kind(LlamaConfig(**SIZES)))
    spoken = probe_language(model, rows)
    assert spoken.manner == manner
    assert spoken.apart < 1e-4
    assert manner_of(model.config) == manner


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        (Foreseeing, r"says other things .* \(off by [\d.]+ nats\)"),
        (Crowded, r"among padded ones than of the row alone \(off by [\d.]+ nats\)"),
    ],
)
def test_a_model_that_is_right_in_no_manner_is_refused(kind: Any, reason: str, rows: Rows) -> None:
    with pytest.raises(Failure, match=reason):
        probe_language(wide(kind(LlamaConfig(**SIZES))), rows)


def test_a_fault_shows_in_a_model_that_was_never_trained(rows: Rows) -> None:
    """What a fresh model says hardly depends on what it reads: the tolerance follows."""
    torch.manual_seed(0)
    model = Forgetful(LlamaConfig(**SIZES)).eval()
    assert probe_language(model, rows).manner.steps == "whole"


def test_a_scoring_model_that_minds_its_neighbours_is_refused(rows: Rows) -> None:
    class Compared(LlamaForSequenceClassification):
        def __init__(self, config: Any) -> None:
            super().__init__(config)
            self.model.register_forward_hook(self.compare)

        def compare(self, module: Any, inputs: Any, output: Any) -> None:
            output["last_hidden_state"] = output[0] - output[0].mean(0, keepdim=True) / 2

    with pytest.raises(Failure, match="otherwise than its own class scores the row alone"):
        probe_scoring(wide(Compared(LlamaConfig(num_labels=1, **SIZES))), rows)


def test_a_cut_model_keeps_a_layer_of_each_kind_and_is_whole_again() -> None:
    types = (["sliding_attention"] * 3 + ["full_attention"]) * 3
    sizes = {**SIZES, "num_hidden_layers": 12, "layer_types": types, "head_dim": 8}
    model = Gemma3ForCausalLM(Gemma3TextConfig(**sizes))
    with first_layers(model) as cut:
        assert cut and len(model.model.layers) == 4
    assert len(model.model.layers) == 12


def test_what_is_wrong_in_a_cut_model_is_looked_at_in_the_whole_one(rows: Rows) -> None:
    seen: set[int] = set()

    class Counting(LlamaForCausalLM):
        """Can't be run with fewer layers than its config says."""

        def forward(self, *arguments: Any, **inputs: Any) -> Any:
            seen.add(len(self.model.layers))
            assert len(self.model.layers) == self.config.num_hidden_layers
            return super().forward(*arguments, **inputs)

    model = wide(Counting(LlamaConfig(**{**SIZES, "num_hidden_layers": 6})))
    assert _tried(model, rows, probe_language).apart < 1e-4
    assert seen == {2, 6}


WIDE = {**SIZES, "vocab_size": 4096, "hidden_size": 384, "intermediate_size": 1024}


@pytest.mark.parametrize(
    "make_model",
    [
        lambda: LlamaForCausalLM(LlamaConfig(**{**WIDE, "pad_token_id": 4000})),
        lambda: GPT2LMHeadModel(GPT2Config(vocab_size=4096, n_embd=384, n_layer=2, n_head=4)),
    ],
)
def test_a_narrow_model_reads_few_words_and_inputs_and_is_whole_again(
    make_model: Callable[[], Any],
) -> None:
    model, ids = wide(make_model()), torch.tensor([[5, 9, 700, 3]])
    with torch.no_grad():
        before = model(ids).logits
        with narrowed(model) as cut:
            assert cut
            few = model(ids).logits
        assert few.shape[-1] == WORDS
        assert 0.2 < float(few.std() / before.std()) < 5  # numbers of the size of the whole one's
        torch.testing.assert_close(model(ids).logits, before, rtol=0, atol=0)
    assert sum(len(module._forward_pre_hooks) for module in model.modules()) == 0


def test_a_model_that_is_narrow_already_is_left_as_it_is() -> None:
    with narrowed(LlamaForCausalLM(LlamaConfig(**SIZES))) as cut:
        assert not cut


@pytest.mark.parametrize(
    ("kind", "manner"),
    [
        (LlamaForCausalLM, Manner()),
        (Forgetful, Manner("whole")),
        (Blind, Manner("whole", left_padded=False)),
    ],
)
def test_a_narrow_model_shows_the_faults_of_the_wide_one(
    kind: Any, manner: Manner, rows: Rows
) -> None:
    model = wide(kind(LlamaConfig(**WIDE)))
    with narrowed(model) as cut:
        assert cut
        assert probe_language(model, rows).manner == manner


def test_a_wide_model_is_probed_for_less_than_it_costs_to_read_one_row(rows: Rows) -> None:
    model = wide(LlamaForCausalLM(LlamaConfig(**{**WIDE, "num_hidden_layers": 8})))
    with torch.no_grad(), FlopCounterMode(display=False) as reading:
        model(torch.tensor([rows.prompts[-1] + rows.replies[-1]]))
    with FlopCounterMode(display=False) as probing:
        _tried(model, rows, probe_language)
    assert probing.get_total_flops() < reading.get_total_flops()


def base(stage: str, source: Path, make_spec: MakeSpec, **section: Any) -> Outcome:
    key = {"actor_base": "actor_config", "reward_base": "reward_config"}[stage]
    spec = make_spec(stage, {key: {"model": str(source), **section}}, {}, source.name)
    return run(spec, QUIET)


@pytest.mark.parametrize("family", ["openai-gpt", "rwkv"])
def test_a_family_without_a_usable_cache_is_decoded_from_whole_rows_with_a_warning(
    family: str, tmp_path: Path, make_spec: MakeSpec
) -> None:
    source = make(family, tmp_path / "source")
    outcome = base("actor_base", source, make_spec)
    assert any("rollouts and evaluation take much longer" in line for line in outcome.warnings)
    folder = tmp_path / "actor_base_source"
    config = load_config(folder)
    manner = manner_of(config)
    assert manner.steps == "whole"
    assert str(manner) in outcome.metrics["probe"]
    tokenizer = AutoTokenizer.from_pretrained(folder)
    told = str(preflight(tokenizer, config, "actor_config", 64))
    assert told.endswith(str(manner))
    generation = _generation_config(tokenizer, stop_ids(tokenizer), config, ActorSettings())
    assert generation.use_cache is False


def test_a_base_that_is_right_in_no_manner_names_itself_and_the_cure(
    tmp_path: Path, make_spec: MakeSpec
) -> None:
    source = make("bert-generation", tmp_path / "source")
    with pytest.raises(
        SettingsError,
        match=r"actor_config.model: .*source \(bert-generation\) says other things of a row among "
        r"padded ones .*off by [\d.]+ nats.* name another model",
    ):
        base("actor_base", source, make_spec)


def test_a_reward_model_of_nan_is_refused_where_it_is_made(
    tmp_path: Path, make_spec: MakeSpec, tiny_base_folder: Path
) -> None:
    model = LlamaForSequenceClassification(LlamaConfig(num_labels=1, **SIZES))
    with torch.no_grad():
        model.score.weight[0, 3] = torch.nan
    source = saved(model, tmp_path / "source", tiny_base_folder)
    with pytest.raises(SettingsError, match=r"has NaN or infinite numbers in score\.weight"):
        base("reward_base", source, make_spec, train=False)


ENCODER = {"vocab_size": 320, "num_labels": 1, "pad_token_id": 0}


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        (
            FNetConfig(
                **ENCODER, hidden_size=16, num_hidden_layers=1, intermediate_size=16,
                max_position_embeddings=64,
            ),
            "among padded ones otherwise than its own class scores the row alone",
        ),
        (
            MraConfig(
                **ENCODER, hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
                intermediate_size=16, max_position_embeddings=64,
            ),
            "scores rows alike that only begin alike, to the last digit: it doesn't read them",
        ),
    ],
)  # fmt: skip
def test_an_encoder_that_reads_no_row_as_it_is_is_refused(
    config: Any, reason: str, tmp_path: Path, make_spec: MakeSpec, tiny_base_folder: Path
) -> None:
    """MRA's attention needs a GPU's kernel, and FNet's has no mask."""
    model = wide(AutoModelForSequenceClassification.from_config(config))
    source = saved(model, tmp_path / "source", tiny_base_folder)
    with pytest.raises(SettingsError, match=reason):
        base("reward_base", source, make_spec, train=False)


def test_a_model_whose_numbers_overflow_is_refused(
    tmp_path: Path, make_spec: MakeSpec, tiny_base_folder: Path
) -> None:
    model = LlamaForCausalLM(LlamaConfig(**SIZES))
    with torch.no_grad():
        model.model.norm.weight.fill_(1e30)
        model.lm_head.weight.mul_(1e12)
    source = saved(model, tmp_path / "source", tiny_base_folder)
    with pytest.raises(SettingsError, match="says NaN of ordinary tokens"):
        base("actor_base", source, make_spec)


def saved(model: Any, folder: Path, tokenizer: Path) -> Path:
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(tokenizer).save_pretrained(folder)
    return folder


def test_a_head_of_ours_stands_on_the_buffers_that_transformers_gives_the_family(
    tmp_path: Path,
) -> None:
    folder = make("falcon_h1", tmp_path / "source")
    actor, reward = load_actor(folder, torch.float32), load_reward(folder, torch.float32)
    buffers = dict(actor.base_model.named_buffers())
    assert any("mup_vector" in name for name in buffers)
    for name, buffer in reward.base_model.named_buffers():
        torch.testing.assert_close(buffer, buffers[name])
