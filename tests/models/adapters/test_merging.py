"""Adapters of layers that are no plain ones: tied, embedding, experts, read past their forward."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, inject_adapter_in_model
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    BartConfig,
    BartForConditionalGeneration,
    CohereConfig,
    CohereForCausalLM,
    FalconConfig,
    FalconForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    JambaConfig,
    JambaForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MambaConfig,
    MambaForCausalLM,
    MixtralConfig,
    MixtralForCausalLM,
    PhimoeConfig,
    PhimoeForCausalLM,
    Qwen3MoeConfig,
    Qwen3MoeForCausalLM,
    RobertaConfig,
    RobertaForSequenceClassification,
    SwitchTransformersConfig,
    SwitchTransformersForConditionalGeneration,
    T5Config,
    T5ForConditionalGeneration,
)

from chatllama_pipeline.errors import CheckError, SettingsError, StoreError
from chatllama_pipeline.models.adapters.lora import (
    add_adapter,
    load_adapter,
    merge_adapter,
    save_model,
    set_trainable,
)
from chatllama_pipeline.models.adapters.merging import adapted_layers, outputs, tried
from chatllama_pipeline.models.heads import load_actor, load_reward
from chatllama_pipeline.progress import Progress, listening
from chatllama_pipeline.settings import LoraSettings

SIZE = {"vocab_size": 96, "hidden_size": 32, "num_hidden_layers": 2}
HEADS = {**SIZE, "num_attention_heads": 4, "num_key_value_heads": 2, "intermediate_size": 48}
EXPERTS = {**HEADS, "num_experts_per_tok": 2}
SEQ2SEQ = {"vocab_size": 96, "d_model": 32, "decoder_start_token_id": 2}

Make = Callable[[], Any]


def llama(tied: bool = True) -> Any:
    return LlamaForCausalLM(LlamaConfig(**HEADS, tie_word_embeddings=tied))


def gpt2() -> Any:
    return GPT2LMHeadModel(GPT2Config(vocab_size=96, n_embd=32, n_layer=2, n_head=4))


def qwen3_moe() -> Any:
    config = Qwen3MoeConfig(**EXPERTS, num_experts=4, moe_intermediate_size=16, head_dim=8)
    return Qwen3MoeForCausalLM(config)


def mixtral() -> Any:
    return MixtralForCausalLM(MixtralConfig(**EXPERTS, num_local_experts=4))


def falcon() -> Any:
    return FalconForCausalLM(FalconConfig(**SIZE, num_attention_heads=4))


def jamba() -> Any:
    config = JambaConfig(**EXPERTS, num_experts=2, attn_layer_period=2, attn_layer_offset=1)
    return JambaForCausalLM(config)


def mamba() -> Any:
    return MambaForCausalLM(MambaConfig(**SIZE, state_size=8))


def bart() -> Any:
    config = BartConfig(
        **SEQ2SEQ, encoder_layers=1, decoder_layers=1, encoder_attention_heads=4,
        decoder_attention_heads=4, encoder_ffn_dim=48, decoder_ffn_dim=48,
        max_position_embeddings=32,
    )  # fmt: skip
    return BartForConditionalGeneration(config)


def t5() -> Any:
    return T5ForConditionalGeneration(
        T5Config(**SEQ2SEQ, d_kv=8, d_ff=48, num_layers=1, num_heads=4)
    )


def switch() -> Any:
    config = SwitchTransformersConfig(
        **SEQ2SEQ, d_kv=8, d_ff=48, num_layers=1, num_heads=4, num_sparse_encoder_layers=0,
        num_sparse_decoder_layers=0,
    )  # fmt: skip
    return SwitchTransformersForConditionalGeneration(config)


def cohere() -> Any:
    return CohereForCausalLM(CohereConfig(**HEADS))


def phimoe() -> Any:
    return PhimoeForCausalLM(PhimoeConfig(**EXPERTS, num_local_experts=4))


def stored(make: Make, folder: Path) -> Path:
    """A model's hub folder; weights are wide enough for an adapter's effect to be seen."""
    torch.manual_seed(0)
    model = make()
    with torch.no_grad():
        for weight in model.parameters():
            if weight.dim() > 1:
                weight.normal_(0.0, 0.2)
    model.save_pretrained(folder)
    return folder


def adapted(folder: Path, targets: list[str] | str | None, dropout: float = 0.0) -> Any:
    """The model in `folder` with a trained adapter: a fresh one changes nothing."""
    model = load_actor(folder, torch.float32)
    lora = LoraSettings(target_modules=targets, lora_dropout=dropout)
    before = outputs(model)
    add_adapter(model, lora, "actor_config", folder, seed=0)
    assert torch.equal(outputs(model), before)
    torch.manual_seed(1)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if ".lora_" in name and not weight.any():
                weight.normal_(0.0, 0.1)
    assert not torch.allclose(outputs(model), before, atol=1e-3)
    return model


@pytest.mark.parametrize(
    ("make", "targets", "adapts"),
    [
        (llama, ["q_proj", "lm_head"], {"q_proj", "lm_head"}),
        (llama, ".*(q_proj|embed_tokens)", {"q_proj", "embed_tokens"}),
        (llama, ["embed_tokens", "lm_head"], {"embed_tokens", "lm_head"}),
        (lambda: llama(tied=False), ["embed_tokens", "lm_head"], {"embed_tokens", "lm_head"}),
        (gpt2, ["c_attn", "lm_head"], {"c_attn", "lm_head"}),
        (gpt2, ["c_attn", "wpe"], {"c_attn", "wpe"}),
        (bart, ["q_proj", "lm_head"], {"q_proj", "lm_head"}),
        (qwen3_moe, None, {"q_proj", "k_proj", "v_proj", "o_proj"}),
        (qwen3_moe, ["gate_proj", "up_proj", "down_proj"], {"gate_up_proj", "down_proj"}),
        (qwen3_moe, "all-linear",
         {"q_proj", "k_proj", "v_proj", "o_proj", "gate", "gate_up_proj", "down_proj"}),
        (mixtral, None, {"q_proj", "v_proj"}),
        (mixtral, "all-linear",
         {"q_proj", "k_proj", "v_proj", "o_proj", "gate", "gate_up_proj", "down_proj"}),
        (falcon, None, {"query_key_value"}),
        (falcon, "all-linear", {"query_key_value", "dense", "dense_h_to_4h", "dense_4h_to_h"}),
        (mamba, None, {"in_proj"}),
        (jamba, None, {"q_proj", "k_proj", "v_proj", "o_proj", "in_proj",
                       "gate_proj", "up_proj", "down_proj"}),
    ],
)  # fmt: skip
def test_what_is_saved_loaded_and_merged_says_the_same_in_plain_transformers(
    tmp_path: Path, make: Make, targets: list[str] | str | None, adapts: set[str]
) -> None:
    model = adapted(stored(make, tmp_path / "base"), targets)
    assert {layer.leaf for layer in adapted_layers(model)} == adapts
    expected = outputs(model)
    save_model(model, tmp_path / "version")
    again = load_actor(tmp_path / "version", torch.float32)
    assert torch.equal(outputs(again), expected)
    merged = merge_adapter(again)
    assert adapted_layers(merged) == []
    torch.testing.assert_close(outputs(merged), expected, atol=2e-4, rtol=2e-4)
    merged.save_pretrained(tmp_path / "plain")
    auto = AutoModelForSeq2SeqLM if model.config.is_encoder_decoder else AutoModelForCausalLM
    plain = auto.from_pretrained(tmp_path / "plain")
    assert torch.equal(outputs(plain), outputs(merged))


def test_a_merge_and_its_trial_say_how_many_layers_are_done(tmp_path: Path) -> None:
    model, lines = adapted(stored(llama, tmp_path), ["q_proj", "v_proj"]), list[str]()
    with listening(Progress("release", lines.append, every_seconds=0, first_seconds=0)):
        merge_adapter(model)
    tried, merged = ([line for line in lines if said in line] for said in ("tries its", "merges"))
    assert "tries its adapter merged: 2 of 4 layers" in tried[0] and " left" in tried[0]
    assert "merges its adapter: 2 of 8 layers" in merged[0] and "8 of 8 layers" in merged[-1]


def test_an_output_layer_that_was_tied_gets_weights_of_its_own(tmp_path: Path) -> None:
    folder = stored(llama, tmp_path)
    embedded = load_actor(folder, torch.float32).get_input_embeddings().weight
    merged = merge_adapter(adapted(folder, ["lm_head"]))
    assert torch.equal(merged.get_input_embeddings().weight, embedded)
    assert merged.config.tie_word_embeddings is False
    assert merged.lm_head.weight is not merged.model.embed_tokens.weight


def test_ties_that_no_adapter_touches_stay(tmp_path: Path) -> None:
    merged = merge_adapter(adapted(stored(llama, tmp_path), ["q_proj"]))
    assert merged.config.tie_word_embeddings is True
    assert merged.lm_head.weight is merged.model.embed_tokens.weight


@pytest.mark.parametrize(
    ("make", "targets", "blamed"),
    [
        (t5, ["q", "lm_head"], "lm_head"),
        (switch, ["q", "lm_head"], "lm_head"),
        (jamba, ["q_proj", "dt_proj"], "dt_proj"),
    ],
)
def test_a_layer_that_cannot_be_merged_is_refused_with_layers_to_name_instead(
    tmp_path: Path, make: Make, targets: list[str], blamed: str
) -> None:
    with pytest.raises(SettingsError) as caught:
        adapted(stored(make, tmp_path), targets)
    told = str(caught.value)
    assert told.startswith(f"actor_config.lora.target_modules: an adapter of {blamed} can't be")
    instead = told.split("instead: ")[1]
    assert "k, o, q" in instead or "q_proj" in instead
    assert blamed not in instead


def test_a_layer_that_the_model_never_calls_is_refused(tmp_path: Path) -> None:
    """BART's shared embedding: its encoder and decoder have the same weight in layers of theirs."""
    with pytest.raises(SettingsError, match=r"an adapter of shared can't be merged into Bart.*k_p"):
        adapted(stored(bart, tmp_path), ["q_proj", "shared"])


def test_a_layer_that_an_adapter_cannot_stand_in_is_refused(tmp_path: Path) -> None:
    """BART looks its positions up by what isn't ids."""
    with pytest.raises(SettingsError, match=r"can't be run with an adapter of embed_pos.*k_proj"):
        adapted(stored(bart, tmp_path), ["embed_positions"])


def test_what_peft_itself_refuses_is_told_with_layers_to_name_instead(tmp_path: Path) -> None:
    with pytest.raises(
        SettingsError, match=r"target_modules: MambaForCausalLM takes no adapter"
    ) as e:
        adapted(stored(mamba, tmp_path), ["out_proj"])
    assert str(e.value).endswith("layers to name instead: in_proj (or all-linear)")


@pytest.mark.parametrize(
    ("make", "targets"),
    [(qwen3_moe, "all-linear"), (mixtral, "all-linear"), (mixtral, ["w1", "w2", "w3"])],
)
def test_dropout_of_experts_is_refused_with_what_to_set(
    tmp_path: Path, make: Make, targets: list[str] | str
) -> None:
    with pytest.raises(SettingsError) as caught:
        adapted(stored(make, tmp_path), targets, dropout=0.1)
    assert str(caught.value).startswith(
        "actor_config.lora.lora_dropout: 0.1 can't be had with an adapter of "
    )
    assert "set actor_config.lora.lora_dropout: 0, or name" in str(caught.value)


def test_half_of_what_is_fused_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"up_proj.*fused into gate_up_proj"):
        adapted(stored(qwen3_moe, tmp_path), ["gate_proj"])


@pytest.mark.parametrize("make", [qwen3_moe, mixtral, mamba, cohere, phimoe])
def test_the_usual_dropout_goes_with_the_usual_layers_of_every_family(
    tmp_path: Path, make: Make
) -> None:
    model = adapted(stored(make, tmp_path), None, LoraSettings().lora_dropout)
    expected = outputs(model)
    torch.testing.assert_close(outputs(merge_adapter(model)), expected, atol=2e-4, rtol=2e-4)


def test_a_merge_that_would_say_something_else_stops_with_the_layers_to_blame(
    tmp_path: Path,
) -> None:
    model = load_actor(stored(jamba, tmp_path), torch.float32)
    config = LoraConfig(target_modules=["q_proj", "dt_proj"], init_lora_weights=False)
    inject_adapter_in_model(config, model, "default")
    before = outputs(model)
    with pytest.raises(CheckError, match=r"adapter merged \(layers dt_proj\)"):
        merge_adapter(model)
    assert torch.equal(outputs(model), before)


def test_a_trial_leaves_the_adapter_and_its_weights_as_they_were(tmp_path: Path) -> None:
    model = load_actor(stored(llama, tmp_path), torch.float32)
    state = torch.get_rng_state()
    add_adapter(model, LoraSettings(), "actor_config", tmp_path, seed=3)
    assert torch.equal(torch.get_rng_state(), state)
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    with tried(model, seed=0):
        assert model.model.layers[0].self_attn.q_proj.lora_B.default.weight.any()
    after = model.state_dict()
    assert all(torch.equal(weight, after[name]) for name, weight in before.items())
    trained = {name for name, weight in model.named_parameters() if weight.requires_grad}
    assert trained == {name for name in before if ".lora_" in name}


def test_a_model_that_is_being_trained_is_compared_without_its_dropout() -> None:
    model = LlamaForCausalLM(LlamaConfig(**HEADS, attention_dropout=0.5)).train()
    add_adapter(model, LoraSettings(lora_dropout=0.5), "actor_config", "", seed=0)
    model.model.layers[1].eval()
    assert torch.equal(outputs(model), outputs(model))
    assert [layer.training for layer in model.model.layers] == [True, False]


class AsksForNumbers(LlamaForCausalLM):
    """Of somebody's own code: it can't be made without weights."""

    def __init__(self, config: LlamaConfig) -> None:
        super().__init__(config)
        self.first = self.lm_head.weight[0, 0].item()


def test_a_model_that_cannot_be_made_without_weights_is_adapted_all_the_same() -> None:
    for tied in (False, True):
        model = AsksForNumbers(LlamaConfig(**HEADS, tie_word_embeddings=tied)).eval()
        add_adapter(model, LoraSettings(), "actor_config", "", seed=0)
        assert {layer.leaf for layer in adapted_layers(model)} == {"q_proj", "v_proj"}
        merge_adapter(model)
    lora = LoraSettings(target_modules=["lm_head"])
    with pytest.raises(SettingsError, match="an adapter of lm_head can't be merged"):
        add_adapter(model, lora, "actor_config", "", seed=0)


def test_a_critic_takes_of_the_actors_adapter_what_lies_in_its_backbone(tmp_path: Path) -> None:
    base = stored(llama, tmp_path / "base")
    for targets, kept in ((["q_proj", "lm_head"], {"q_proj"}), (["lm_head"], set())):
        folder = tmp_path / "_".join(targets)
        save_model(adapted(base, targets), folder)
        critic = load_reward(folder, torch.float32)
        assert {layer.leaf for layer in adapted_layers(critic)} == kept
        set_trainable(critic)
        assert critic.score.weight.requires_grad


def test_an_adapter_of_another_model_is_refused_by_name(tmp_path: Path) -> None:
    save_model(adapted(stored(llama, tmp_path / "base"), ["q_proj"]), tmp_path / "version")
    other = LlamaForCausalLM(LlamaConfig(**{**HEADS, "num_hidden_layers": 3}))
    with pytest.raises(StoreError, match="is no adapter of a LlamaForCausalLM"):
        load_adapter(other, tmp_path / "version")


@pytest.mark.parametrize("targets", [None, "all-linear", ["dense"]])
def test_an_encoder_s_adapter_is_saved_with_its_head_and_loaded_again(
    tmp_path: Path, targets: list[str] | str | None
) -> None:
    config = RobertaConfig(
        **SIZE, num_attention_heads=4, intermediate_size=48, num_labels=1, pad_token_id=1
    )
    RobertaForSequenceClassification(config).save_pretrained(tmp_path / "base")
    model = load_reward(tmp_path / "base", torch.float32)
    lora = LoraSettings(target_modules=targets)
    add_adapter(model, lora, "reward_config", tmp_path / "base", seed=0)
    torch.manual_seed(1)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.requires_grad:
                weight.normal_(0.0, 0.1)
    expected = outputs(model)
    save_model(model, tmp_path / "version")
    assert torch.equal(outputs(load_reward(tmp_path / "version", torch.float32)), expected)
