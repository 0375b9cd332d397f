"""Which settings an asset's fingerprint holds."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from chatllama_pipeline.lineage.assets import ASSETS
from chatllama_pipeline.lineage.neutral import NEUTRAL
from chatllama_pipeline.lineage.recipes import needed_by
from chatllama_pipeline.settings import AssistantSettings, Section

# What PPO alone makes anything of.
OF_A_CRITIC = {
    "trainer_config.critic_lr",
    "trainer_config.critic_eps_clip",
    "trainer_config.value_coefficient",
    "trainer_config.gae_lambda",
    "trainer_config.gamma_discounted",
}


def dotted_keys(section: Section, above: str = "") -> Iterator[str]:
    for key, value in section:
        if isinstance(value, Section):
            yield from dotted_keys(value, f"{above}{key}.")
        else:
            yield above + key


def test_every_setting_is_either_part_of_a_fingerprint_or_known_to_change_no_result() -> None:
    every = set(dotted_keys(AssistantSettings()))
    listed = {key for asset in ASSETS.values() for key in asset.settings}
    assert listed | NEUTRAL == every
    assert not listed & NEUTRAL


def counted(**settings: Any) -> dict[str, Any]:
    return ASSETS["actor_ppo"].made_from(AssistantSettings.model_validate(settings))


def test_an_actor_improved_by_ppo_is_fingerprinted_without_a_word_of_other_methods() -> None:
    ppo = counted()
    assert not {"improve_by", "trainer_config.replies_per_prompt"} & set(ppo)
    assert set(ppo) >= OF_A_CRITIC
    assert counted(improve_by="ppo") == ppo
    several = counted(trainer_config={"replies_per_prompt": 2})
    assert several == {**ppo, "trainer_config.replies_per_prompt": 2}


def test_another_method_counts_with_what_it_reads_and_nothing_else() -> None:
    rloo = counted(improve_by="rloo")
    assert (rloo["improve_by"], rloo["trainer_config.replies_per_prompt"]) == ("rloo", 4)
    assert not OF_A_CRITIC & set(rloo)
    assert not [key for key in rloo if key.startswith("critic_config.")]
    assert counted(improve_by="rloo", trainer_config={"critic_lr": 0.1}) == rloo
    assert counted(improve_by="rloo", trainer_config={"kl_beta": 0.1}) != rloo
    assert counted(improve_by="grpo") == {**rloo, "improve_by": "grpo"}


@pytest.mark.parametrize("method", ["dpo", "kto"])
def test_an_actor_improved_by_rows_is_made_from_them_and_from_nothing_of_a_rollout(
    method: str,
) -> None:
    found, own = counted(improve_by=method), f"{method}_config"
    assert not [key for key in found if key.startswith(("trainer_config.", "critic_config."))]
    assert not {"actor_config.max_tokens", "actor_config.thoughts"} & set(found)
    assert {key.split(".")[0] for key in found if key.endswith("_config.beta")} == {own}
    assert counted(improve_by=method, **{own: {"beta": 0.2}}) != found
    assert counted(**{own: {"beta": 0.2}}) == counted()
    by = {
        method: ASSETS["actor_ppo"].upstream_for(
            AssistantSettings.model_validate({"improve_by": method})
        )
        for method in ("ppo", "dpo", "kto", "best_of_n")
    }
    assert by["best_of_n"] == ["actor_sft", "reward_model", "rlhf_training_data"]
    # Cheats are tried beside the data's good replies.
    assert by["ppo"] == [*by["best_of_n"], "preference_data", "reward_training_data"]
    assert by["dpo"] == by["kto"] == ["actor_sft", "preference_data"]


def test_an_actor_by_its_best_replies_counts_their_number_and_what_pays_for_them() -> None:
    best = counted(improve_by="best_of_n")
    assert not [key for key in best if key.startswith(("trainer_config.", "critic_config."))]
    assert {"actor_config.max_tokens", "actor_config.thoughts"} <= set(best)
    for more in ({"best_of_n_config": {"replies_per_prompt": 4}},
                 {"rewards": {"weights": {"reward_model": 2}}}):  # fmt: skip
        assert counted(improve_by="best_of_n", **more) != best
    at_once = {"best_of_n_config": {"rollout_batch_size": 4}}
    assert counted(improve_by="best_of_n", **at_once) == best


def test_cheats_count_where_a_reward_is_climbed_and_are_tried() -> None:
    tried = {"checks.max_cheat_wins", "rewards.cheat_prompts"}
    assert tried <= set(counted()) and tried <= set(counted(improve_by="grpo"))
    for method in ("dpo", "kto", "best_of_n"):
        assert not tried & set(counted(improve_by=method))
    none = AssistantSettings.model_validate({"rewards": {"cheat_prompts": 0}})
    assert "preference_data" not in ASSETS["actor_ppo"].upstream_for(none)


def test_a_shared_trunk_counts_and_the_adapter_of_a_critic_that_is_not_there_does_not() -> None:
    own = counted()
    assert "critic_config.trunk" not in own and "critic_config.lora.r" in own
    shared = counted(critic_config={"trunk": "shared"})
    assert {key for key in shared if key.startswith("critic_config.")} == {"critic_config.trunk"}
    assert counted(critic_config={"trunk": "shared", "lora": {"r": 2}}) == shared
    assert set(own) - set(shared) == {key for key in own if key.startswith("critic_config.")}
    grouped = {"improve_by": "rloo"}
    assert counted(critic_config={"trunk": "shared"}, **grouped) == counted(**grouped)


def test_a_release_counts_its_gguf_files_and_the_templates_they_are_judged_by() -> None:
    def release(**settings: Any) -> tuple[dict[str, Any], list[str]]:
        read = AssistantSettings.model_validate(settings)
        return ASSETS["release"].made_from(read), ASSETS["release"].upstream_for(read)

    bar = {"checks": {"min_gguf_agreement": 0.5}}
    plain, held = release(), {"release": {"gguf": ["q8_0"]}}
    assert release(**bar) == plain and "release.gguf" not in plain[0]
    found, upstream = release(**held)
    assert found["release.gguf"] and upstream == plain[1] == ["evaluation", "actor_ppo"]
    assert release(**held, **bar)[0] != found
    llm = {"llm": {"provider": "openai", "model": "m", "prices": {"m": "unknown"}}}
    judged = release(**held, **llm, evaluation={"judge": "openai"})
    assert judged[1] == ["evaluation", "actor_ppo", "personal_data"]
    assert release(**llm, evaluation={"judge": "openai"})[1] == plain[1]


def test_a_watch_counts_where_somebody_looks_on() -> None:
    watch = {f"trainer_config.watch_{name}" for name in ("every", "prompts", "falls")}
    judge = {"evaluation": {"judge": "rubric"}, "rubric": [{"name": "a", "says": "a"}]}
    assert not watch & set(counted())
    assert watch <= set(counted(**judge))
    assert not watch & set(counted(improve_by="dpo", **judge))
    assert not watch & set(counted(trainer_config={"watch_every": 0}, **judge))
    model = {"provider": "openai", "model": "m", "price": "free"}
    asked = AssistantSettings.model_validate({"evaluation": {"judge": model}})
    # An LLM judges by the person's templates.
    assert "personal_data" in ASSETS["actor_ppo"].upstream_for(asked)


@pytest.mark.parametrize("method", ["ppo", "best_of_n", "dpo", "kto"])
def test_a_reward_model_is_needed_where_somebody_is_paid_by_it(method: str) -> None:
    settings = AssistantSettings.model_validate({"improve_by": method})
    unneeded = {"reward_base", "reward_model"} if method in ("dpo", "kto") else set()
    # The sources that no assistant names are nobody's either.
    named = {str(name) for name in settings.data.sources}
    left_out = set(ASSETS) - needed_by(settings) - {"feedback"}
    assert left_out == unneeded | ({"shp", "hh_rlhf", "grammar"} - named)
