"""Every family through every stage it is listed for, each stage made from the one before.

A representative few run by default, all of them with `-m slow`.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from chatllama_pipeline.errors import SettingsError
from chatllama_pipeline.evaluation.figures import Evaluation
from chatllama_pipeline.launch import STAGES
from chatllama_pipeline.lineage.assets import ASSETS
from chatllama_pipeline.models.adapters.lora import merge_adapter
from chatllama_pipeline.models.chat.template import prompt_ids, stop_ids
from chatllama_pipeline.models.families.kinds import Kind, kind_of
from chatllama_pipeline.models.heads import RewardScorer, load_actor, load_reward
from chatllama_pipeline.models.quiet import quiet_transformers
from chatllama_pipeline.records import Outcome, StageSpec, user_prompt
from chatllama_pipeline.serving.chat import chat_once
from chatllama_pipeline.store.model_files import has_adapter
from chatllama_pipeline.training.sft import stage as sft
from tests.families.kit import ACTORS, REWARDS
from tests.families.vocabulary.tokenizer_kinds import WORDS
from tests.tiny import QUIET

FolderOf = Callable[[str], Path]
# By default: the layouts and kinds that differ most from a Llama.
DEFAULT_ACTORS = {"opt_350m", "galactica", "flan_t5", "bloomz"}
DEFAULT_REWARDS = {"flan_t5", "deberta_v3"}
PAIRED = {family.name for family in REWARDS}
READS_GPT2S_TOKENS = {"gpt_neo", "codegen", "phi"}


def _marked(names: list[str], default: set[str]) -> list[Any]:
    marks: dict[bool, list[Any]] = {True: [], False: [pytest.mark.slow]}
    return [pytest.param(name, marks=marks[name in default]) for name in names]


EACH_ACTOR = _marked([family.name for family in ACTORS], DEFAULT_ACTORS)
EACH_ADAPTED = _marked([family.name for family in ACTORS], {"flan_t5"})
EACH_REWARD = _marked([family.name for family in REWARDS], DEFAULT_REWARDS)


def settings(actor: Path, reward: Path, **reward_config: Any) -> dict[str, Any]:
    # Weights as wide as the kit's, which make outputs differ, learn at a high rate.
    common = {"max_sequence_length": 64, "batch_size": 4, "lr": 0.003, "evaluations": 1}
    return {
        "actor_config": {**common, "model": str(actor), "max_tokens": 6, "max_steps": 40},
        "reward_config": {**common, "model": str(reward), "max_steps": 40, **reward_config},
        "trainer_config": {
            "num_episodes": 2,
            "max_timesteps": 8,
            "update_timesteps": 8,
            "actor_lr": 1e-4,
            "critic_lr": 1e-3,
            "update_kl_limit": 10.0,
        },
        "evaluation": {"prompts": 2, "bootstrap_samples": 50},
    }


class Chain:
    """Stages made when they are asked for, once, from the folders of an actor's and a reward's."""

    def __init__(self, root: Path, tables: dict[str, Path], config: dict[str, Any]) -> None:
        self.root, self.tables, self.config = root, tables, config
        self.outcomes: dict[str, Outcome] = {}

    def folder(self, stage: str) -> Path:
        """Where a stage's output stands; makes it and all it is made from."""
        if stage in self.tables:
            return self.tables[stage]
        self.outcome(stage)
        return self.root / stage

    def outcome(self, stage: str) -> Outcome:
        if stage not in self.outcomes:
            inputs = {name: str(self.folder(name)) for name in NEEDS[stage]}
            output = self.root / stage
            output.mkdir()
            spec = StageSpec(
                stage, "tiny", self.config, inputs, str(output),
                str(self.root / f"{stage}_run"), str(self.root / f"{stage}.json"),
                readable=ASSETS[stage].readable,
            )  # fmt: skip
            module, name = STAGES[stage].split(":")
            run = getattr(__import__(module, fromlist=[name]), name)
            self.outcomes[stage] = run(spec, QUIET)
        return self.outcomes[stage]


NEEDS: dict[str, list[str]] = {
    "actor_base": [],
    "reward_base": [],
    "reward_model": ["reward_base", "reward_training_data", "preference_data"],
    "actor_sft": ["actor_base", "actor_training_data"],
    "actor_ppo": ["actor_sft", "reward_model", "rlhf_training_data"],
    "evaluation": [
        *("actor_sft", "actor_ppo", "reward_model", "rlhf_training_data", "preference_data")
    ],
    "release": ["evaluation", "actor_ppo"],
}


@pytest.fixture(scope="session")
def chain_of(
    tmp_path_factory: pytest.TempPathFactory, family_folder: FolderOf, tables: dict[str, Path]
) -> Callable[..., Chain]:
    """The chain of an actor's family; its reward model is its own family's, else GPT-2's."""
    quiet_transformers()
    made: dict[str, Chain] = {}

    def make(actor: str, reward: str | None = None, **reward_config: Any) -> Chain:
        scoring = reward or (actor if actor in PAIRED else "gpt2")
        key = f"{actor} {scoring} {sorted(reward_config.items())}"
        if key not in made:
            config = settings(family_folder(actor), family_folder(scoring), **reward_config)
            made[key] = Chain(tmp_path_factory.mktemp("chain"), tables, config)
        return made[key]

    return make


def figures(outcome: Outcome, name: str) -> list[float]:
    return [y for curve in outcome.curves if curve.name == name for _, y in curve.points]


@pytest.mark.parametrize("name", EACH_ACTOR)
def test_sft_lowers_the_loss_and_learns_the_end_of_a_reply(
    name: str, chain_of: Callable[..., Chain]
) -> None:
    chain = chain_of(name)
    outcome = chain.outcome("actor_sft")
    losses = figures(outcome, "loss")
    assert losses[-1] < 0.5 * losses[0]
    assert all(check.passed for check in outcome.checks)
    folder = chain.folder("actor_sft")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    probability = []
    for model in (load_actor(chain.folder(s), torch.float32) for s in ("actor_base", "actor_sft")):
        prompt = prompt_ids(tokenizer, user_prompt("alpha"), 64)
        reply = [*tokenizer.encode("alpha", add_special_tokens=False)]
        if kind_of(model.config) is Kind.ENCODER_DECODER:
            start = torch.tensor([[model.config.decoder_start_token_id, *reply]])
            logits = model(input_ids=torch.tensor([prompt]), decoder_input_ids=start).logits
        else:
            logits = model(input_ids=torch.tensor([prompt + reply])).logits
        probability.append(float(logits[0, -1].softmax(-1)[stop_ids(tokenizer)[0]].detach()))
    assert probability[1] > max(0.5, probability[0])


@pytest.mark.parametrize("name", EACH_ACTOR)
def test_a_saved_sft_model_has_the_validation_loss_it_was_saved_with(
    name: str, chain_of: Callable[..., Chain], tmp_path: Path
) -> None:
    chain = chain_of(name)
    folder = chain.folder("actor_sft")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    rows, _, _ = sft._examples(
        chain.folder("actor_training_data"), tmp_path, tokenizer, "validation", 64
    )
    pad_id = tokenizer.pad_token_id
    model = load_actor(folder, torch.float32)
    with torch.no_grad():
        together = sft.validate(rows, pad_id, model)["validation_loss"]
        tokens = [len(row.ids) - row.prompt_length for row in rows]
        each = [sft.validate([row], pad_id, model)["validation_loss"] for row in rows]
    singly = sum(n * loss for n, loss in zip(tokens, each, strict=True)) / sum(tokens)
    assert together == pytest.approx(
        chain.outcome("actor_sft").metrics["validation_loss"], rel=1e-4
    )
    assert together == pytest.approx(singly, rel=1e-4)


@pytest.mark.parametrize("name", EACH_REWARD)
def test_a_reward_model_learns_what_is_liked_and_is_loaded_with_its_scores(
    name: str, chain_of: Callable[..., Chain]
) -> None:
    actor = name if name in {family.name for family in ACTORS} else "opt_350m"
    chain = chain_of(actor, name)
    outcome = chain.outcome("reward_model")
    losses = figures(outcome, "loss")
    assert losses[-1] < 0.5 * losses[0]
    assert outcome.metrics["validation_accuracy"] == 1.0
    scorer = RewardScorer(chain.folder("reward_model"))
    prompts = [user_prompt(word) for word in WORDS[:8]]
    liked, disliked = (
        scorer(prompts, [f"{word} {ending}" for word in WORDS[:8]]) for ending in ("kilo", "lima")
    )
    assert bool((liked > disliked).all())


@pytest.mark.parametrize("name", EACH_ACTOR)
def test_ppo_begins_at_its_own_rollouts_probabilities_and_at_no_divergence(
    name: str, chain_of: Callable[..., Chain]
) -> None:
    """Before anything was learned, recomputed log-probabilities are those of the rollout."""
    chain = chain_of(name)
    outcome = chain.outcome("actor_ppo")
    assert all(check.passed for check in outcome.checks)
    assert figures(outcome, "ratio_min")[0] == pytest.approx(1.0, abs=1e-3)
    assert figures(outcome, "ratio_max")[0] == pytest.approx(1.0, abs=1e-3)
    assert figures(outcome, "kl")[0] == pytest.approx(0.0, abs=1e-3)
    assert figures(outcome, "optimizer_steps") == [1.0, 1.0]
    before, after = (
        load_actor(chain.folder(stage), torch.float32).state_dict()
        for stage in ("actor_sft", "actor_ppo")
    )
    assert any(not torch.equal(before[key], after[key]) for key in before)
    apart = [warning for warning in outcome.warnings if "reads other tokens" in warning]
    assert len(apart) == (0 if name in PAIRED | READS_GPT2S_TOKENS else 1)
    critic = load_reward(chain.folder("actor_ppo") / "critic", torch.float32)
    assert kind_of(critic.config) is kind_of(
        load_actor(chain.folder("actor_sft"), torch.float32).config
    )


@pytest.mark.parametrize("name", EACH_ACTOR)
def test_an_actor_is_evaluated_released_and_talks(
    name: str, chain_of: Callable[..., Chain]
) -> None:
    chain = chain_of(name)
    evaluation = Evaluation.read(chain.folder("evaluation"))
    assert evaluation.figures.prompts == 2 and evaluation.figures.kl is not None
    release = chain.folder("release")
    config = json.loads((release / "generation_config.json").read_text())
    assert config["max_new_tokens"] == 6
    assert isinstance(chat_once(release, "alpha"), str)


@pytest.mark.parametrize("name", EACH_ADAPTED)
def test_adapters_train_in_every_stage_and_are_merged_at_release(
    name: str, tmp_path: Path, family_folder: FolderOf, tables: dict[str, Path]
) -> None:
    config = settings(family_folder(name), family_folder(name if name in PAIRED else "gpt2"))
    for section in ("actor_config", "reward_config"):
        config[section] |= {"peft_enable": True, "lr": 0.03}
    chain = Chain(tmp_path, tables, config)
    for stage in ("actor_sft", "reward_model"):
        losses = figures(chain.outcome(stage), "loss")
        assert losses[-1] < 0.7 * losses[0], stage
    ppo = chain.outcome("actor_ppo")
    assert all(check.passed for check in ppo.checks)
    assert figures(ppo, "kl")[0] == pytest.approx(0.0, abs=1e-3)
    assert figures(ppo, "ratio_max")[0] == pytest.approx(1.0, abs=1e-3)
    stages = [chain.folder(stage) for stage in ("actor_sft", "actor_ppo")]
    for folder in (*stages, stages[1] / "critic"):
        assert has_adapter(folder), folder
    before, after = (load_file(folder / "adapter_model.safetensors") for folder in stages)
    assert any(not torch.equal(before[key], after[key]) for key in before)
    release = chain.folder("release")
    assert not has_adapter(release)
    merged = merge_adapter(load_actor(stages[1], torch.float32)).state_dict()
    released = load_actor(release, torch.float32).state_dict()
    assert all(torch.allclose(released[key], merged[key], atol=1e-6) for key in merged)


@pytest.mark.parametrize(
    "name", [family.name for family in REWARDS if family.name not in {f.name for f in ACTORS}]
)
def test_a_pretrained_reward_model_is_used_as_it_is(
    name: str, chain_of: Callable[..., Chain], family_folder: FolderOf
) -> None:
    """PPO's reward is its own score, normalised on the training replies; no weight of it moves."""
    chain = chain_of("opt_350m", name, train=False)
    outcome = chain.outcome("reward_model")
    assert outcome.metrics["steps"] == 0
    plain = AutoModelForSequenceClassification.from_pretrained(family_folder(name)).eval()
    tokenizer = AutoTokenizer.from_pretrained(family_folder(name))
    raw = [
        float(plain(**tokenizer(word, f"{word} kilo", return_tensors="pt")).logits.detach())
        for word in WORDS
    ]
    scorer = RewardScorer(chain.folder("reward_model"))
    found = scorer([user_prompt(word) for word in WORDS], [f"{word} kilo" for word in WORDS])
    expected = [(score - scorer.shift) / scorer.scale for score in raw]
    assert found.tolist() == pytest.approx(expected, abs=1e-4)
    assert any("critic starts from the SFT" in w for w in chain.outcome("actor_ppo").warnings)


def test_a_base_model_without_a_head_is_not_taken_as_it_is(
    chain_of: Callable[..., Chain],
) -> None:
    with pytest.raises(SettingsError, match=r"train: false takes .* no trained head"):
        chain_of("opt_350m", "gpt2", train=False).outcome("reward_base")
