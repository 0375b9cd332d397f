"""PPO paid by several terms: settings, one scale, curves, resume, a judge and its budget."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch

from chatllama_pipeline.errors import DataError, SettingsError
from chatllama_pipeline.lineage.assets import ASSETS
from chatllama_pipeline.lineage.recipes import recipe_for
from chatllama_pipeline.progress import Progress
from chatllama_pipeline.settings.folder import load_assistant
from chatllama_pipeline.store.versions import Store
from chatllama_pipeline.training.ppo.stage import run
from chatllama_pipeline.training.terms.weighing import Scales, Term
from tests.tiny import QUIET, MakeSpec, curves, hashes
from tests.training.paid import BRIEF, SETTINGS

TRUSTED = "rewards: {weights: {reward_model: 1, brief: 0.5}, trust_code: true}\n"


def assistant(root: Path, config: str, source: str | None = BRIEF) -> Path:
    folder = root / "mia"
    folder.mkdir(exist_ok=True)
    (folder / "config.yaml").write_text(config)
    if source is not None:
        (folder / "rewards.py").write_text(source)
    return root


@pytest.mark.parametrize(
    ("config", "source", "told"),
    [
        ("{}", BRIEF, r"rewards: the weights \(reward_model 0\) add up to nothing: give one"),
        ("{reward_model: 0, brief: 0}", BRIEF, "add up to nothing"),
        ("{brief: -1, reward_model: 2}", BRIEF, "rewards.weights.brief: -1.*greater than or equal"),
        ("{brief: .nan}", BRIEF, "rewards.weights.brief: nan.*finite"),
        ("{brief: much}", BRIEF, "rewards.weights.brief: 'much'"),
        ("{a b: 1}", BRIEF, "'a b' is no name of a function"),
        ("{brief: 1}", None, r"rewards.file: .*rewards\.py can't be read \(No such file"),
        ("{brief: 1}", "def tidy(p, r): return 1", "no function 'brief'; it has tidy"),
        ("{brief: 1}", "def breif(p, r): return 1", "no function 'brief'; did you mean 'breif'"),
        ("{brief: 1}", "def brief(p r): return 1", r"rewards\.py, line 1: is no Python"),
        ("{judge: 1}", BRIEF, "rewards.weights.judge asks llm.judge, and nobody plays it"),
    ],
)
def test_rewards_that_cannot_be_paid_are_refused_with_the_cure(
    tmp_path: Path, config: str, source: str | None, told: str
) -> None:
    weights = "{reward_model: 0}" if config == "{}" else config
    root = assistant(tmp_path, f"rewards: {{weights: {weights}, trust_code: true}}\n", source)
    with pytest.raises(SettingsError, match=told):
        load_assistant("mia", root=root)


def test_no_weights_at_all_add_up_to_nothing_too(tmp_path: Path) -> None:
    root = assistant(tmp_path, "rewards: {weights: {}}\n")
    with pytest.raises(SettingsError, match=r"there are none.* add up to nothing"):
        load_assistant("mia", root=root)


def test_a_persons_code_is_not_run_without_a_word_that_it_may(tmp_path: Path) -> None:
    source = f"open({str(tmp_path / 'was_here')!r}, 'w')\n{BRIEF}"
    root = assistant(tmp_path, "rewards: {weights: {reward_model: 1, brief: 1}}\n", source)
    with pytest.raises(SettingsError, match=r"names brief of rewards.py.*set rewards.trust_code"):
        load_assistant("mia", root=root)
    # With it, whoever reads the settings still runs nothing.
    assistant(tmp_path, TRUSTED, source)
    load_assistant("mia", root=root)
    assert not (tmp_path / "was_here").exists()


@pytest.mark.parametrize(
    "source",
    [
        "async def brief(p, r): return 1",
        "brief = len",
        "from os.path import join as brief",
        "try:\n    import numpy\nexcept ImportError:\n    pass\nelse:\n    def brief(p, r): pass",
        "from somewhere import *",
    ],
)
def test_a_function_may_come_about_in_any_way(tmp_path: Path, source: str) -> None:
    settings = load_assistant("mia", root=assistant(tmp_path, TRUSTED, source)).settings
    assert settings.rewards.file == str(tmp_path / "mia" / "rewards.py")


JUDGES = "rewards: {weights: {judge: 1}}\n"
OPENAI = "provider: openai, price: free, base_url: 'http://a/v1'"


@pytest.mark.parametrize(
    "llm",
    [
        f"llm: {{{OPENAI}, model: m}}",
        f"llm: {{judge: {{{OPENAI}, model: m}}}}",
        f"llm: {{{OPENAI}, model: m}}\nevaluation: {{judge: {{temperature: 0.7}}}}",
        f"llm: {{{OPENAI}, model: x/M}}\nevaluation: {{judge: {{provider: openai, model: m, "
        "price: free, base_url: 'http://b/v1'}}",
        "llm: {provider: rules}\ndata: {sources: [grammar]}",
        "llm: {provider: rubric}\nrubric: [{name: tea, says: tea, points: 1}]",
        "llm: {provider: transformers, model: ./tiny}\n"
        "evaluation: {judge: {provider: transformers, model: ../mia/tiny}}",
    ],
)
def test_a_judge_that_is_paid_by_may_not_be_the_gates_judge(tmp_path: Path, llm: str) -> None:
    (tmp_path / "mia" / "tiny").mkdir(parents=True)
    root = assistant(tmp_path, f"{JUDGES}{llm}\n")
    with pytest.raises(SettingsError, match=r"rewards\.weights\.judge: .*set evaluation.judge to"):
        load_assistant("mia", root=root)


@pytest.mark.parametrize(
    "gate", ["none", "{provider: openai, model: other, price: free, base_url: 'http://a/v1'}"]
)
def test_it_may_beside_another_judge_or_a_person(tmp_path: Path, gate: str) -> None:
    config = f"{JUDGES}llm: {{{OPENAI}, model: m}}\nevaluation: {{judge: {gate}}}\n"
    assert load_assistant("mia", root=assistant(tmp_path, config)).settings.rewards.pays_by("judge")


def test_a_judge_that_answers_within_a_day_is_refused(tmp_path: Path) -> None:
    config = f"{JUDGES}llm: {{{OPENAI}, model: m, batch: true}}\nevaluation: {{judge: none}}\n"
    with pytest.raises(SettingsError, match=r"PPO asks in every iteration: set llm.judge.batch"):
        load_assistant("mia", root=assistant(tmp_path, config))


def test_source_and_weights_count_in_the_fingerprint_and_the_judge_where_it_pays(
    tmp_path: Path,
) -> None:
    upstream = dict.fromkeys(("actor_sft", "reward_model", "rlhf_training_data"), "1")

    def fingerprint(config: str, source: str = BRIEF) -> str:
        mia = load_assistant("mia", root=assistant(tmp_path, config, source))
        return recipe_for("actor_ppo", mia, upstream, Store(tmp_path / "store"), []).fingerprint

    assert fingerprint(TRUSTED) != fingerprint(TRUSTED, BRIEF + "# other\n")
    assert fingerprint(TRUSTED) != fingerprint(TRUSTED.replace("0.5", "0.25"))
    assert fingerprint(TRUSTED) == fingerprint(TRUSTED.replace("}\n", ", silence_seconds: 9}\n"))
    # An unused file is nobody's reward.
    assert fingerprint("seed: 0\n") == fingerprint("seed: 0\n", BRIEF + "# other\n")
    judges = "rewards: {weights: {reward_model: 1, judge: 1}}\nevaluation: {judge: none}\n"
    models = [f"llm: {{{OPENAI}, model: {name}}}\n" for name in "mn"]
    assert len({fingerprint(judges + llm) for llm in models}) == 2
    assert len({fingerprint("evaluation: {judge: none}\n" + llm) for llm in models}) == 1
    needs = ASSETS["actor_ppo"].upstream_for
    settings = load_assistant("mia", root=assistant(tmp_path, judges + models[0])).settings
    assert "personal_data" in needs(settings)
    settings = load_assistant("mia", root=assistant(tmp_path, TRUSTED)).settings
    assert "personal_data" not in needs(settings)


def test_terms_come_to_one_scale_by_their_first_replies_and_are_added_by_weight() -> None:
    scales, terms = Scales(), [Term("reward_model", 2.0, scaled=True), Term("brief", 0.5)]
    brief = torch.tensor([10.0, 20.0, 30.0, 40.0])
    model = torch.tensor([0.5, -0.5, 1.0, 0.0])
    earned = scales.weigh(torch.stack([model, brief], 1), terms)
    spread = math.sqrt(125.0)
    expected = 2 * model + 0.5 * (brief - 25) / spread
    torch.testing.assert_close(earned.total, expected)
    figures = earned.figures()
    assert figures["reward/brief"] == pytest.approx(0)
    assert figures["raw_reward/brief"] == 25
    assert figures["raw_reward/reward_model"] == figures["reward/reward_model"] == 0.25
    assert earned.of_row(1) == {"reward_model": -0.5, "brief": 20.0}


def test_portions_say_what_is_usual_as_all_at_once_does_and_later_replies_do_not() -> None:
    values = torch.randn(256, generator=torch.Generator().manual_seed(0)) * 3 + 7
    whole, parts = Scales(), Scales()
    whole.scaled("brief", values)
    for part in values.split(60):
        parts.scaled("brief", part)
    assert parts.seen["brief"] == pytest.approx(whole.seen["brief"], rel=1e-9)
    assert whole.seen["brief"][1] == pytest.approx(float(values.double().mean()))
    before = dict(whole.seen)
    assert float(whole.scaled("brief", torch.tensor([1000.0])).mean()) > 100
    assert whole.seen == before


def test_a_term_that_says_the_same_of_all_pays_nothing() -> None:
    scaled = Scales().scaled("brief", torch.full((8,), 0.1))
    assert scaled.abs().max() < 1e-6


def test_what_a_judge_could_not_read_is_neither_praise_nor_blame() -> None:
    scales = Scales()
    earned = scales.weigh(torch.tensor([[1.0], [3.0], [math.nan]]), [Term("judge", 1.0)])
    assert earned.total.tolist() == [-1.0, 1.0, 0.0]
    assert earned.figures() == pytest.approx(
        {"reward/judge": 0.0, "raw_reward/judge": 2.0, "unread/judge": 1 / 3}
    )
    assert earned.of_row(2) == {"judge": None}


def test_the_reward_model_alone_is_paid_as_without_the_setting(
    paid_spec: MakeSpec, make_spec: MakeSpec, paid_inputs: dict[str, Path]
) -> None:
    plain = make_spec("actor_ppo", SETTINGS, paid_inputs, "plain")
    alone = paid_spec({"reward_model": 1.0})
    run(plain, QUIET)
    run(alone, QUIET)
    assert hashes(plain.output) == hashes(alone.output)


def test_each_term_is_logged_by_itself_and_stands_with_the_samples(paid_spec: MakeSpec) -> None:
    job = paid_spec({"reward_model": 1.0, "brief": 0.5})
    outcome = run(job, QUIET)
    found = curves(outcome)
    lines = (Path(job.output) / "samples.jsonl").read_text().splitlines()
    first = [json.loads(line) for line in lines[:4]]
    lengths = [-len(sample["reply"]) for sample in first]
    assert [sample["rewards"]["brief"] for sample in first] == lengths
    assert found["raw_reward/brief"][0] == pytest.approx(sum(lengths) / 4)
    assert found["reward/brief"][0] == pytest.approx(0, abs=1e-6)
    for iteration in range(3):
        total = found["reward/reward_model"][iteration] + 0.5 * found["reward/brief"][iteration]
        assert found["score"][iteration] == pytest.approx(total, abs=1e-5)


def test_what_a_function_does_amid_ppo_is_told_and_what_was_learnt_is_saved(
    paid_spec: MakeSpec, tmp_path: Path
) -> None:
    flag = tmp_path / "flag"
    source = f"""
import pathlib
calls = 0
def brief(prompt, reply):
    global calls
    calls += 1
    if calls > 8 and not pathlib.Path({str(flag)!r}).exists():
        raise OSError("the line is down")
    return -len(reply)
"""
    whole, cut = (paid_spec({"brief": 1.0}, source, take) for take in ("whole", "cut"))
    with pytest.raises(DataError, match=r"brief, row 1 of 4, .*the line is down.*iteration 2"):
        run(cut, QUIET)
    flag.touch()
    lines: list[str] = []
    run(cut, Progress("test", lines.append))
    assert any("continues after iteration 2" in line for line in lines)
    run(whole, QUIET)
    assert hashes(whole.output) == hashes(cut.output)


def test_a_file_that_breaks_is_told_before_models_are_loaded(paid_spec: MakeSpec) -> None:
    job = paid_spec({"brief": 1.0}, "import no_such_module\n" + BRIEF)
    job.inputs["reward_model"] = "nowhere"
    with pytest.raises(SettingsError, match="doesn't import: ModuleNotFoundError"):
        run(job, QUIET)
