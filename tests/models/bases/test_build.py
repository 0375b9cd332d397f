from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
from tokenizers import Tokenizer
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    BertConfig,
    EncoderDecoderConfig,
    EncoderDecoderModel,
    Gemma3Config,
    Gemma3ForCausalLM,
    Gemma3ForConditionalGeneration,
    ViTConfig,
)

from chatllama_pipeline.errors import DataError, SettingsError
from chatllama_pipeline.models.bases.build import run
from chatllama_pipeline.models.chat.template import prompt_ids
from chatllama_pipeline.models.loading import load_tokenizer
from chatllama_pipeline.records import user_prompt
from chatllama_pipeline.schemas import ACTOR_SCHEMA
from chatllama_pipeline.settings import AssistantSettings
from tests.families.vocabulary import tokenizer_kinds
from tests.tiny import QUIET, MakeSpec, row

SIZES = {
    "model": "scratch",
    "scratch_hidden_size": 32,
    "scratch_heads": 2,
    "scratch_vocabulary": 300,
    "max_sequence_length": 64,
}
SCRATCH = {"actor_config": SIZES, "reward_config": SIZES}


@pytest.fixture
def data(tmp_path: Path, write_table: Any) -> dict[str, Path]:
    rows = [
        row("alpha bravo", split, completion="charlie delta")
        for split in ("train", "train", "validation")
    ]
    rows[2]["completion"] = "zzzzzzzz zzzzzzzz zzzzzzzz"
    return {"actor_training_data": write_table(tmp_path / "data", rows, ACTOR_SCHEMA)}


def test_a_model_from_scratch_is_the_same_bytes_again_and_from_a_table_in_parts(
    make_spec: MakeSpec, data: Any, tmp_path: Path
) -> None:
    rows = pq.read_table(data["actor_training_data"] / "data.parquet")
    parts = tmp_path / "parts" / "data.parquet"
    parts.mkdir(parents=True)
    for number in range(3):
        pq.write_table(rows.slice(number, 1), parts / f"part-{number:05}.parquet")
    parted = {"actor_training_data": parts.parent}
    specs = [
        make_spec("actor_base", SCRATCH, inputs, take)
        for take, inputs in (("a", data), ("b", parted))
    ]
    for spec in specs:
        run(spec, QUIET)
    first, second = (
        {path.name: path.read_bytes() for path in Path(spec.output).iterdir()} for spec in specs
    )
    assert first == second
    assert {"model.safetensors", "tokenizer.json", "config.json"} <= set(first)


def test_actor_and_reward_base_share_a_tokenizer_and_not_their_weights(
    make_spec: MakeSpec, data: Any
) -> None:
    actor, reward = (make_spec(stage, SCRATCH, data) for stage in ("actor_base", "reward_base"))
    outcome = run(actor, QUIET)
    run(reward, QUIET)
    files = [(Path(s.output) / "tokenizer.json").read_bytes() for s in (actor, reward)]
    assert files[0] == files[1]
    weights = [
        AutoModelForCausalLM.from_pretrained(s.output).model.embed_tokens.weight
        for s in (actor, reward)
    ]
    assert not torch.equal(weights[0], weights[1])
    assert outcome.metrics["parameters"] == sum(
        p.numel() for p in AutoModelForCausalLM.from_pretrained(actor.output).parameters()
    )


def test_the_tokenizer_knows_bytes_roles_and_training_words_alone(
    make_spec: MakeSpec, data: Any
) -> None:
    spec = make_spec("actor_base", SCRATCH, data)
    run(spec, QUIET)
    tokenizer = AutoTokenizer.from_pretrained(spec.output)
    marks = ["<|pad|>", "<|end|>", "<|system|>", "<|user|>", "<|assistant|>"]
    assert tokenizer.convert_tokens_to_ids(marks) == [0, 1, 2, 3, 4]
    assert tokenizer.bos_token_id is None
    assert len(tokenizer.encode("charlie")) == 1
    assert len(tokenizer.encode("zzzzzzzz")) == 8  # a validation row's word was never merged
    assert tokenizer.decode(tokenizer.encode("naïve ☃")) == "naïve ☃"


def test_no_training_rows_is_an_error_that_names_the_table(
    make_spec: MakeSpec, tmp_path: Path, write_table: Any
) -> None:
    empty = write_table(tmp_path / "empty", [], ACTOR_SCHEMA)
    with pytest.raises(DataError, match="empty: no training rows"):
        run(make_spec("actor_base", SCRATCH, {"actor_training_data": empty}), QUIET)


def test_heads_that_do_not_divide_the_hidden_size_are_refused(
    make_spec: MakeSpec, data: Any
) -> None:
    settings = {"actor_config": {**SIZES, "scratch_heads": 3}}
    with pytest.raises(SettingsError, match=r"scratch_hidden_size 32 .*scratch_heads 3"):
        run(make_spec("actor_base", settings, data), QUIET)


def test_codegens_heads_come_in_fours(make_spec: MakeSpec, data: Any) -> None:
    settings = {"actor_config": {**SIZES, "scratch_family": "codegen"}}
    with pytest.raises(SettingsError, match=r"actor_config.scratch_heads 2 is not a multiple of 4"):
        run(make_spec("actor_base", settings, data), QUIET)


def test_a_base_that_cannot_be_exported_as_is_wanted_is_refused_before_it_is_trained(
    make_spec: MakeSpec, data: Any
) -> None:
    wanted = {"release": {"gguf": ["q8_0"]}}
    settings = {"actor_config": {**SIZES, "scratch_family": "opt"}}
    with pytest.raises(
        SettingsError, match=r"release.gguf: .* doesn't know OPTForCausalLM \(opt\)"
    ):
        run(make_spec("actor_base", settings | wanted, data), QUIET)
    # A reward model is no part of a release.
    run(make_spec("reward_base", {"reward_config": settings["actor_config"]} | wanted, data), QUIET)
    run(make_spec("actor_base", SCRATCH | wanted, data, "b"), QUIET)


def test_a_local_folder_is_copied_whole(make_spec: MakeSpec, tiny_base_folder: Path) -> None:
    spec = make_spec("reward_base", {"reward_config": {"model": str(tiny_base_folder)}}, {})
    run(spec, QUIET)
    copied = AutoModelForCausalLM.from_pretrained(spec.output).state_dict()
    for name, value in AutoModelForCausalLM.from_pretrained(tiny_base_folder).state_dict().items():
        assert torch.equal(copied[name], value)
    assert AutoTokenizer.from_pretrained(spec.output).chat_template is not None
    assert not any(
        str(tiny_base_folder) in path.read_text(errors="ignore")
        for path in Path(spec.output).iterdir()
    )


@pytest.mark.parametrize(
    ("removed", "missing"),
    [
        ("tokenizer.json", r"no tokenizer \(tokenizer.json\)"),
        ("model.safetensors", r"no weights \(model.safetensors\)"),
        ("config.json", "no config.json"),
    ],
)
def test_a_folder_that_lacks_a_file_is_named_with_what_is_missing(
    make_spec: MakeSpec, tiny_base_folder: Path, tmp_path: Path, removed: str, missing: str
) -> None:
    folder = tmp_path / "holed"
    shutil.copytree(tiny_base_folder, folder)
    (folder / removed).unlink()
    with pytest.raises(
        SettingsError, match=rf"actor_config.model: the folder {folder} has {missing}"
    ):
        run(make_spec("actor_base", {"actor_config": {"model": str(folder)}}, {}), QUIET)


def test_a_folder_that_is_not_there_is_named(make_spec: MakeSpec, tmp_path: Path) -> None:
    settings = {"actor_config": {"model": str(tmp_path / "nowhere")}}
    with pytest.raises(SettingsError, match=r"actor_config.model: the folder .*nowhere does not"):
        run(make_spec("actor_base", settings, {}), QUIET)


def test_a_hub_model_without_network_names_the_key_and_the_cures(make_spec: MakeSpec) -> None:
    settings = {"reward_config": {"model": "nobody/no-such-model"}}
    with pytest.raises(
        SettingsError,
        match=r"reward_config.model: nobody/no-such-model@main was never fetched .*scratch",
    ):
        run(make_spec("reward_base", settings, {}), QUIET)


def test_a_tokenizer_with_more_ids_than_the_model_has_embeddings_is_refused(
    make_spec: MakeSpec, tiny_base_folder: Path, tmp_path: Path
) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_base_folder)
    tokenizer.add_tokens([f"word{i}" for i in range(200)])
    tokenizer.save_pretrained(tmp_path / "wide")
    settings = {
        "actor_config": {"model": str(tiny_base_folder), "tokenizer_path": str(tmp_path / "wide")}
    }
    said = r"tokenizer_path: .*wide has 500 ids.* not read word0, word1, word10; save the model"
    with pytest.raises(SettingsError, match=said):
        run(make_spec("actor_base", settings, {}), QUIET)


def test_a_decoder_that_writes_fewer_words_than_its_encoder_reads_is_refused(
    make_spec: MakeSpec, tiny_base_folder: Path, tmp_path: Path
) -> None:
    small = {
        **{"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1},
        "num_attention_heads": 2,
    }
    config = EncoderDecoderConfig.from_encoder_decoder_configs(
        BertConfig(vocab_size=320, **small), BertConfig(vocab_size=200, **small)
    )
    config.decoder_start_token_id = config.pad_token_id = 0
    EncoderDecoderModel(config).save_pretrained(tmp_path / "source")
    AutoTokenizer.from_pretrained(tiny_base_folder).save_pretrained(tmp_path / "source")
    settings = {"actor_config": {"model": str(tmp_path / "source")}}
    with pytest.raises(SettingsError, match=r"source has 300 ids, .* embeddings for 200: "):
        run(make_spec("actor_base", settings, {}), QUIET)


def test_a_model_of_a_kind_without_a_language_model_is_refused_by_its_kind(
    make_spec: MakeSpec, tiny_base_folder: Path, tmp_path: Path
) -> None:
    ViTConfig().save_pretrained(tmp_path)
    for path in tiny_base_folder.glob("*token*"):
        shutil.copy(path, tmp_path)
    shutil.copy(tiny_base_folder / "model.safetensors", tmp_path)
    settings = {"actor_config": {"model": str(tmp_path)}}
    with pytest.raises(SettingsError, match="AutoModelForCausalLM knows no model of its kind"):
        run(make_spec("actor_base", settings, {}), QUIET)


def test_of_a_model_that_sees_the_language_model_is_taken(
    make_spec: MakeSpec, tiny_base_folder: Path, tmp_path: Path
) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_base_folder)
    small = {"hidden_size": 32, "intermediate_size": 32, "num_attention_heads": 2}
    text = {
        **{**small, "vocab_size": 320, "num_hidden_layers": 2, "num_key_value_heads": 1},
        **{"head_dim": 16, "pad_token_id": tokenizer.pad_token_id},
    }
    seeing = Gemma3ForConditionalGeneration(
        Gemma3Config(
            text_config=text,
            vision_config={**small, "num_hidden_layers": 1, "image_size": 28, "patch_size": 14},
            mm_tokens_per_image=4,
            image_token_index=319,
        )
    ).eval()
    seeing.save_pretrained(tmp_path / "seeing")
    tokenizer.save_pretrained(tmp_path / "seeing")
    spec = make_spec("actor_base", {"actor_config": {"model": str(tmp_path / "seeing")}}, {})
    outcome = run(spec, QUIET)
    assert (
        "reads more than text (gemma3); its language model alone was taken" in outcome.warnings[0]
    )

    taken = AutoModelForCausalLM.from_pretrained(spec.output)
    assert type(taken) is Gemma3ForCausalLM
    assert outcome.metrics["parameters"] == taken.num_parameters() < seeing.num_parameters()
    ids = torch.arange(4, 60)[None]
    with torch.no_grad():
        assert torch.equal(taken(input_ids=ids).logits, seeing(input_ids=ids).logits)


@pytest.fixture
def thinking_folder(tiny_base_folder: Path, tmp_path: Path) -> Path:
    """A model whose template has an option, and whose tokenizer truncates and pads by itself."""
    folder = shutil.copytree(tiny_base_folder, tmp_path / "thinker")
    (folder / "chat_template.jinja").write_text(tokenizer_kinds.CHATML_THINKING)
    core = Tokenizer.from_file(str(folder / "tokenizer.json"))
    core.enable_truncation(4)
    core.enable_padding(length=32)
    core.save(str(folder / "tokenizer.json"))
    return folder


def test_template_options_are_written_into_the_published_template(
    make_spec: MakeSpec, thinking_folder: Path
) -> None:
    section = {"model": str(thinking_folder), "template_options": {"enable_thinking": False}}
    spec = make_spec("actor_base", {"actor_config": section}, {})
    run(spec, QUIET)
    asked = [{"role": "user", "content": "alpha"}]
    tokenizer = AutoTokenizer.from_pretrained(spec.output)
    text = tokenizer.apply_chat_template(asked, tokenize=False, add_generation_prompt=True)
    assert text.endswith("<|im_start|>assistant\n<think>\n\n</think>\n\n")
    assert prompt_ids(tokenizer, user_prompt("alpha"), 99) == tokenizer.encode(text)


def test_a_base_reads_no_setting_that_it_does_not_declare_when_all_are_set(
    make_spec: MakeSpec, thinking_folder: Path
) -> None:
    model = {"model": str(thinking_folder)}
    given = {"actor_config": {**model, "max_tokens": 8}, "reward_config": model}
    for stage in ("actor_base", "reward_base"):
        everything = AssistantSettings.model_validate(given).model_dump(mode="json")
        spec = make_spec(stage, everything, {})
        run(spec, QUIET)
        assert (Path(spec.output) / "config.json").is_file()


@pytest.mark.parametrize("stage", ["actor_base", "reward_base"])
def test_an_unknown_template_option_is_an_error_that_lists_the_known_ones(
    make_spec: MakeSpec, thinking_folder: Path, data: Any, stage: str
) -> None:
    key = stage.replace("base", "config")
    for model, known in ((str(thinking_folder), "enable_thinking"), ("scratch", "none")):
        section = {**SIZES, "model": model, "template_options": {"thinking": True}}
        spec = make_spec(stage, {key: section}, data, take=known)
        with pytest.raises(
            SettingsError,
            match=rf"{key}\.template_options: .* no option thinking; it knows {known}",
        ):
            run(spec, QUIET)


def test_a_published_tokenizer_neither_truncates_nor_pads(
    make_spec: MakeSpec, thinking_folder: Path
) -> None:
    spec = make_spec("actor_base", {"actor_config": {"model": str(thinking_folder)}}, {})
    run(spec, QUIET)
    core = Tokenizer.from_file(f"{spec.output}/tokenizer.json")
    assert core.truncation is None and core.padding is None
    words = "alpha bravo charlie delta echo foxtrot"
    loaded = load_tokenizer(thinking_folder)
    assert loaded.backend_tokenizer.truncation is None and loaded.backend_tokenizer.padding is None
    expected = core.encode(words).ids
    assert 4 < len(expected) < 32 and loaded.encode(words) == expected
