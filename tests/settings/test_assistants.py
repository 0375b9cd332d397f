"""Assistants: folders, config.yaml, and every way in which it can be wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from chatllama_pipeline.errors import SettingsError
from chatllama_pipeline.lineage.recipes import recipe_for
from chatllama_pipeline.settings.data import SourceChoice
from chatllama_pipeline.settings.folder import (
    assistant_names,
    assistants_using,
    content_hash,
    load_assistant,
)
from chatllama_pipeline.settings.original import TAKEN
from chatllama_pipeline.store.versions import Store

REPOSITORY = Path(__file__).parents[2]

# Every key of the original's config.yaml, section by section.
ORIGINAL_CONFIG = """
trainer_config: {actor_lr: 0.000005, critic_lr: 0.000009, actor_eps_clip: 0.2,
  critic_eps_clip: 0.2, beta_s: 0.02, gamma_discounted: 1,
  examples_path: "./datasets/rlhf_training_data.json", num_episodes: 100, max_timesteps: 32,
  update_timesteps: 32, num_examples: 1, batch_size: 1, epochs: 1, checkpoint_steps: 1000,
  checkpoint_name: null}
actor_config: {model: "facebook/opt-1.3b", model_folder: "./models", tokenizer_path: null,
  train_dataset_path: "./datasets/actor_training_data.json", validation_dataset_path: null,
  froze_embeddings: True, use_fairscale: False, max_sequence_length: 2048, max_tokens: 2048,
  min_tokens: 100, additonal_prompt_tokens: 20, temperature: 0.1, batch_size: 2,
  iteration_per_print: 1, lr: 0.000009, epochs: 1, checkpoint_steps: 5000,
  n_checkpoints_to_keep: 5, checkpoint_name: null, deepspeed_enable: False,
  deepspeed_config_path: "./artifacts/config/ds_config.json", accelerate_enable: False,
  peft_enable: False, peft_config_path: "./artifacts/config/peft_config.yaml"}
reward_config: {model: "facebook/opt-125m", model_folder: "./models",
  model_head_hidden_size: 2048, max_sequence_length: 2048,
  train_dataset_path: "./datasets/reward_training_data.json", validation_dataset_path: null,
  batch_size: 8, epochs: 1, iteration_per_print: 1, checkpoint_steps: 10000,
  checkpoint_name: null, lr: 0.000009, deepspeed_enable: False,
  deepspeed_config_path: "./artifacts/config/ds_config.json", accelerate_enable: False}
critic_config: {model: "facebook/opt-125m", model_head_hidden_size: 2048,
  max_sequence_length: 2048, model_folder: "./models", checkpoint_name: null}
"""


def write(root: Path, name: str, config: str) -> Path:
    folder = root / name
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.yaml").write_text(config)
    return folder


def refusal(root: Path, config: str, **overrides: object) -> str:
    write(root, "mine", config)
    with pytest.raises(SettingsError) as caught:
        load_assistant("mine", overrides, root)
    return str(caught.value)


def test_the_originals_config_is_accepted_whole_with_a_warning_for_each_taken_key(
    tmp_path: Path,
) -> None:
    write(tmp_path, "mine", ORIGINAL_CONFIG)
    mine = load_assistant("mine", root=tmp_path)

    assert mine.settings.trainer_config.iterations == 100
    assert mine.settings.trainer_config.prompts_per_iteration == 32
    assert mine.settings.actor_config.froze_embeddings
    warned = {warning.split(": ")[1] for warning in mine.warnings}
    assert warned == {*TAKEN, "actor_config.temperature", "actor_config.max_tokens"}
    # The original cut a reply where its row ended: 2048 tokens of 2048 leave a prompt none.
    assert mine.settings.actor_config.max_tokens == 1024


@pytest.mark.parametrize(
    ("config", "told"),
    [
        (
            "actor_config: {max_sequence_length: 512, max_tokens: 512}",
            "actor_config: max_tokens 512 leaves no room for a prompt within max_sequence_length "
            "512, which holds prompt and reply: lower max_tokens, or raise max_sequence_length",
        ),
        (
            "actor_config: {lora: {target_modules: '.*(q_proj'}}",
            "actor_config.lora.target_modules: target_modules: '.*(q_proj' is no regex (missing ), "
            "unterminated subpattern at position 2); write one that fits whole names of layers, or "
            "a list of last names",
        ),
        (
            "actor_config: {batch_size: 8, micro_batch_size: 3}",
            "actor_config: batch_size 8 is not a multiple of micro_batch_size 3: choose a "
            "micro_batch_size that divides it",
        ),
        (
            "reward_config: {batch_size: 2, micro_batch_size: 4}",
            "reward_config: batch_size 2 is not a multiple of micro_batch_size 4: choose a "
            "micro_batch_size that divides it",
        ),
        (
            "{improve_by: grpo, trainer_config: {replies_per_prompt: 1}}",
            "improve_by: grpo compares the replies to one prompt with each other, and "
            "trainer_config.replies_per_prompt is 1; set it to 2 or more, or improve_by: ppo",
        ),
        (
            "{improve_by: rloo, trainer_config: {update_timesteps: 5, batch_size: 8}}",
            "trainer_config: num_examples * update_timesteps * replies_per_prompt = 20 is not a "
            "multiple of batch_size 8",
        ),
        (
            "improve_by: dop",
            "improve_by: 'dop' (str): input should be 'ppo', 'rloo', 'grpo', 'dpo', 'kto' or "
            "'best_of_n'",
        ),
        (
            "trainer_config: {update_timesteps: 4, micro_batch_size: 3}",
            "trainer_config: batch_size 4 is not a multiple of micro_batch_size 3: choose a "
            "micro_batch_size that divides it",
        ),
    ],
)
def test_settings_that_contradict_each_other_are_refused_before_anything_runs(
    tmp_path: Path, config: str, told: str
) -> None:
    assert refusal(tmp_path, config).endswith(f"config.yaml: {told}")


@pytest.mark.parametrize("config", ["", "trainer_config:", "trainer_config: {epochs: 2}"])
@pytest.mark.parametrize(("method", "replies"), [("ppo", 1), ("rloo", 4), ("grpo", 4)])
def test_a_method_that_compares_replies_writes_several_to_each_prompt(
    tmp_path: Path, config: str, method: str, replies: int
) -> None:
    write(tmp_path, "mine", f"improve_by: {method}\n{config}")
    ppo = load_assistant("mine", root=tmp_path).settings.trainer_config
    assert ppo.replies_per_prompt == replies
    assert ppo.rollouts_per_iteration == ppo.minibatch_size == 32 * replies


def test_settings_that_the_method_makes_nothing_of_are_told(tmp_path: Path) -> None:
    config = "trainer_config: {critic_lr: 0.1, gae_lambda: 1, actor_lr: 0.1}\ncritic_config:\n"
    write(tmp_path, "by_ppo", config)
    write(tmp_path, "by_rloo", f"improve_by: rloo\n{config}")
    for name in ("by_ppo", "by_rloo"):  # what a file fills in nobody has set
        (tmp_path / name / "peft_config.yaml").write_text("r: 4")
    assert load_assistant("by_ppo", root=tmp_path).warnings == []
    (told,) = load_assistant("by_rloo", root=tmp_path).warnings
    assert told.endswith(
        "config.yaml: improve_by: rloo doesn't use trainer_config.critic_lr, "
        "trainer_config.gae_lambda"
    )
    (told,) = load_assistant("by_ppo", {"improve_by": "dpo"}, root=tmp_path).warnings
    assert "dpo doesn't use trainer_config.actor_lr, trainer_config.critic_lr" in told
    (told,) = load_assistant("by_ppo", {"dpo_config.beta": 0.2}, root=tmp_path).warnings
    assert told.endswith("improve_by: ppo doesn't use dpo_config")
    both = {"improve_by": "kto", "kto_config.beta": 0.2, "dpo_config.beta": 0.2}
    (told,) = load_assistant("by_ppo", both, root=tmp_path).warnings
    assert told.endswith("trainer_config.gae_lambda, dpo_config") and "kto_config" not in told
    best = {"improve_by": "best_of_n", "rewards.weights": {"reward_model": 1}}
    (told,) = load_assistant("by_ppo", best, root=tmp_path).warnings
    assert "rewards" not in told and "trainer_config.gae_lambda" in told
    overrides = {"improve_by": "grpo", "critic_config.peft_enable": True}
    (told,) = load_assistant("by_ppo", overrides, root=tmp_path).warnings
    assert "improve_by: grpo doesn't use critic_config, trainer_config.critic_lr" in told


def test_a_shared_trunk_refuses_a_critic_of_its_own_and_tells_what_it_does_not_use(
    tmp_path: Path,
) -> None:
    config = "critic_config: {trunk: shared, model: facebook/opt-350m}"
    told = refusal(tmp_path, config)
    assert str(tmp_path / "mine" / "config.yaml") in told
    assert "critic_config.model: 'facebook/opt-350m' names a model of the critic's own" in told
    assert "take critic_config.model out, or set critic_config.trunk: own" in told
    told = refusal(tmp_path, "critic_config: {trunk: shared, peft_enable: true}")
    assert "critic_config" in told and "take peft_enable out" in told
    told = refusal(tmp_path, "critic_config: {trunk: both}")
    assert "critic_config.trunk" in told and "shared" in told
    write(tmp_path, "mine", "critic_config: {trunk: shared, lora: {r: 2}}")
    (told,) = load_assistant("mine", root=tmp_path).warnings
    assert told.endswith("ppo with critic_config.trunk: shared doesn't use critic_config.lora")
    # By another method there is no critic, whatever its trunk.
    assert load_assistant("mine", root=tmp_path).settings.has_shared_trunk
    rloo = load_assistant("mine", {"improve_by": "rloo"}, root=tmp_path)
    assert not rloo.settings.has_shared_trunk


def test_a_contradiction_that_an_override_makes_is_refused_too(tmp_path: Path) -> None:
    config = "actor_config: {max_sequence_length: 512, max_tokens: 64}"
    told = refusal(tmp_path, config, **{"actor_config.max_sequence_length": 64})
    assert "max_tokens 64 leaves no room for a prompt within max_sequence_length 64" in told


@pytest.mark.parametrize(("length", "reply"), [(2048, 256), (257, 256), (256, 128), (64, 32)])
def test_a_reply_takes_half_of_a_short_row_unless_it_is_told(
    tmp_path: Path, length: int, reply: int
) -> None:
    write(tmp_path, "mine", f"actor_config: {{max_sequence_length: {length}}}")
    assert load_assistant("mine", root=tmp_path).settings.actor_config.max_tokens == reply


def test_public_sources_may_have_the_originals_names(tmp_path: Path) -> None:
    write(tmp_path, "mine", "data: {sources: [SHP, ARLHF, shp]}")
    assert load_assistant("mine", root=tmp_path).settings.data.sources == {
        "hh_rlhf": SourceChoice(),
        "shp": SourceChoice(),
    }
    assert assistants_using("shp", tmp_path) == ["mine"]
    assert assistants_using("grammar", tmp_path) == []


def test_overrides_take_dotted_keys(tmp_path: Path) -> None:
    write(tmp_path, "mine", "seed: 0\ndata: {label_noise: 0.05}")
    overrides = {"seed": 1, "data.label_noise": 0.5, "reward_config.objective": "pairwise"}
    mine = load_assistant("mine", overrides, tmp_path)

    assert mine.settings.seed == 1
    assert mine.settings.data.label_noise == 0.5
    assert mine.settings.reward_config.objective == "pairwise"
    assert mine.overrides == overrides


def test_a_missing_config_is_named(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    with pytest.raises(SettingsError, match=r"mine/config\.yaml is missing"):
        load_assistant("mine", root=tmp_path)


@pytest.mark.parametrize("config", ["", "# only a comment\n"])
def test_an_empty_config_says_what_it_needs(tmp_path: Path, config: str) -> None:
    assert "config.yaml is empty: it needs at least one setting" in refusal(tmp_path, config)


def test_broken_yaml_says_where(tmp_path: Path) -> None:
    message = refusal(tmp_path, "seed: 0\ndata: {sources: [shp\n")
    assert "config.yaml is not valid YAML" in message
    assert "line 3" in message


def test_a_config_that_is_a_list_is_refused(tmp_path: Path) -> None:
    assert "holds a list, not `key: value` lines" in refusal(tmp_path, "- seed\n")


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ("sed: 1", "config.yaml: unknown key sed; did you mean 'seed'?"),
        (
            "actor_config: {batchsize: 2}",
            "config.yaml: unknown key actor_config.batchsize; did you mean 'batch_size'?",
        ),
        ("data: {zzz: 1}", "config.yaml: unknown key data.zzz; those there are: sources,"),
        (
            "actor_config: {lr: fast}",
            "config.yaml: actor_config.lr: 'fast' (str): input should be a valid number",
        ),
        (
            "trainer_config: {epochs: 1.5}",
            "config.yaml: trainer_config.epochs: 1.5 (float): input should be a valid integer",
        ),
        (
            "data: {label_noise: 0.7}",
            "config.yaml: data.label_noise: 0.7 (float): input should be less than or equal to 0.5",
        ),
        (
            "actor_config: 7",
            "config.yaml: actor_config: 7 (int): input should be a valid dictionary",
        ),
        (
            "llm: {provider: rule}",
            "config.yaml: llm.provider: 'rule' (str): input should be 'none', 'rules', 'rubric', "
            "'openai' or 'transformers'",
        ),
        (
            "data: {sources: [reddit]}",
            "config.yaml: data.sources.reddit.[key]: 'reddit' (str): input should be 'shp'",
        ),
        (
            "trainer_config: {update_timesteps: 10, batch_size: 4}",
            "config.yaml: trainer_config: num_examples * update_timesteps = 10 is not a multiple "
            "of batch_size 4",
        ),
        (
            "reward_config: {model: scratch, train: false}",
            "config.yaml: reward_config: train: false takes a reward model as it is, and model: ",
        ),
        (
            "actor_config: {model: scratch, froze_embeddings: true}",
            "config.yaml: actor_config: froze_embeddings: true with model: scratch would freeze",
        ),
        (
            "data: {sources: [shp]}\nllm: {provider: rules}",
            "config.yaml: llm.provider: rules knows only the grammar, and data.sources names shp; "
            "set llm.provider: none",
        ),
        (
            "data: {sources: {shp: {domain: [askbaking]}}}",
            "config.yaml: unknown key data.sources.shp.domain; did you mean 'domains'?",
        ),
        ("retrain: {cron: monthly}", "config.yaml: retrain.cron: 'monthly' is no cron line; write"),
        ("retrain: {cron: 61 3 * * 1}", "retrain.cron: '61 3 * * 1' is no cron line; write five"),
        ("retrain: {cron: '@daily'}", "retrain.cron: '@daily' is no cron line; write five fields"),
        ("retrain: {cron: 0 3 31 2 *}", "retrain.cron: '0 3 31 2 *' names a day that never comes"),
        ("retrain: {cron: '0 3 31 4,6 *'}", "'0 3 31 4,6 *' names a day that never comes"),
        (
            "retrain: {timezone: Mars/Phobos}",
            "retrain.timezone: 'Mars/Phobos' is no time zone; wri",
        ),
        ("retrain: {timezone: CET+1}", "config.yaml: retrain.timezone: 'CET+1' is no time zone; w"),
        ("retrain: {timezone: ../etc}", "config.yaml: retrain.timezone: '../etc' is no time zone"),
        ("retrain: {timezone: Europe}", "config.yaml: retrain.timezone: 'Europe' is no time zone"),
    ],
)
def test_each_wrong_setting_is_named_with_its_file_key_value_and_cure(
    tmp_path: Path, config: str, expected: str
) -> None:
    assert expected in refusal(tmp_path, config)


def test_every_wrong_setting_is_told_at_once(tmp_path: Path) -> None:
    message = refusal(tmp_path, "seed: -1\ndata: {label_noise: 9}\nextra: 1")
    assert len(message.splitlines()) == 3


def test_a_wrong_override_is_told_as_one(tmp_path: Path) -> None:
    message = refusal(tmp_path, "seed: 0", **{"data.label_nois": 0.5})
    assert message == (
        "run_options.overrides: unknown key data.label_nois; did you mean 'label_noise'?"
    )


def test_a_local_model_is_found_beside_the_config(tmp_path: Path) -> None:
    folder = write(tmp_path, "mine", "actor_config: {model: ./my_model}")
    assert load_assistant("mine", root=tmp_path).settings.actor_config.model == str(
        folder / "my_model"
    )


@pytest.mark.parametrize("named", ["model.gguf", "./model.gguf", "weights/model.gguf"])
def test_a_gguf_file_is_found_beside_the_config(tmp_path: Path, named: str) -> None:
    folder = write(tmp_path, "mine", f"reward_config: {{model: {named}}}")
    assert load_assistant("mine", root=tmp_path).settings.reward_config.model == str(folder / named)


def test_a_gguf_file_counts_by_its_content_and_not_by_where_it_stands(tmp_path: Path) -> None:
    def fingerprint(content: bytes, place: str) -> str:
        file = tmp_path / place / "model.gguf"
        file.parent.mkdir(exist_ok=True)
        file.write_bytes(content)
        write(tmp_path, "mine", f"actor_config: {{model: {file}}}")
        assistant = load_assistant("mine", root=tmp_path)
        return recipe_for("actor_base", assistant, {}, Store(tmp_path / "store"), []).fingerprint

    first = fingerprint(b"GGUF one", "a")
    assert fingerprint(b"GGUF one", "b") == first
    assert fingerprint(b"GGUF two", "b") != first


def test_the_content_hash_follows_content_and_not_times(tmp_path: Path) -> None:
    folder = write(tmp_path, "mine", "seed: 0")
    before = content_hash("mine", tmp_path)
    (folder / "config.yaml").touch()
    assert content_hash("mine", tmp_path) == before
    (folder / "datasets").mkdir()
    (folder / "datasets" / "actor_training_data.json").write_text("[]")
    assert content_hash("mine", tmp_path) != before


def test_every_example_in_the_repository_loads() -> None:
    root = REPOSITORY / "assistants"
    assert "quickstart" in assistant_names(root)
    for name in assistant_names(root):
        told = load_assistant(name, root=root).warnings
        assert [warning for warning in told if "chat" not in warning] == [], name
