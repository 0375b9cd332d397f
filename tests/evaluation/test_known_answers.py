"""Questions with known answers: which replies are right, what is lost, and what is told of it."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from chatllama_pipeline.errors import SettingsError
from chatllama_pipeline.evaluation import gate
from chatllama_pipeline.evaluation.compare import run
from chatllama_pipeline.evaluation.figures import Evaluation, Figures
from chatllama_pipeline.evaluation.known_answers import KNOWN_FILE
from chatllama_pipeline.lineage.assets import ASSETS
from chatllama_pipeline.progress import Progress
from chatllama_pipeline.records import Check, StageSpec
from chatllama_pipeline.settings import AssistantSettings, CheckSettings, ReleaseSettings
from chatllama_pipeline.settings.folder import load_assistant
from chatllama_pipeline.settings.known_questions import (
    KnownAnswers,
    KnownQuestion,
    read_known_questions,
)


@pytest.mark.parametrize(
    ("accepted", "reply", "right"),
    [
        (["Paris"], "Ahoy. It is paris, friend.", True),
        (["Paris"], "Comparisons are odious.", False),
        (["4", "four"], "The answer is 4.", True),
        (["4", "four"], "The answer is 14.", False),
        (["4", "four"], "Fourteen gulls.", False),
        (["C++"], "It is written in C++.", True),
        (["H₂O"], "Water is H₂O", True),
        (["東京"], "首都は 東京 です", True),
        (["New Delhi"], "Delhi, the new one", False),
        (["yes"], "", False),
    ],
)
def test_a_reply_is_right_where_it_says_an_accepted_answer_as_words(
    accepted: list[str], reply: str, right: bool
) -> None:
    assert KnownQuestion("?", accepted).is_answered(reply) is right


def test_what_is_lost_is_counted_among_what_the_base_answers() -> None:
    base = [True, True, True, True, False, False]
    sft = [True, True, True, False, True, True]
    ppo = [True, False, True, False, True, False]
    known = KnownAnswers.count(base, sft, ppo)
    assert str(known) == "base 4/6, SFT 5/6, PPO 3/6"
    assert known.lost("actor_sft") == 0.25 and known.lost("actor_ppo") == 0.5
    assert KnownAnswers.count([False], [True], [True]).lost("actor_ppo") == 0.0


def check(figures: Figures, release: ReleaseSettings, **limits: float) -> Check:
    verdict = gate.decide(
        figures, release, assistant="mine", judge="rules", unpromoted_overrides=[]
    )
    found = gate.checks(figures, verdict, release, CheckSettings(**limits))
    return next(one for one in found if one.name == "known_answers")


def test_more_lost_than_the_limit_is_warned_of_and_stops_nothing(
    make_figures: Callable[..., Figures],
) -> None:
    known = KnownAnswers(10, 8, 8, 6, kept_by_sft=8, kept_by_ppo=6)
    figures = make_figures(known_answers=known)
    warned = check(figures, ReleaseSettings())
    assert not warned.passed and not warned.blocking
    assert (warned.value, warned.limit) == (0.25, 0.1)
    assert "base 8/10, SFT 8/10, PPO 6/10" in warned.description
    assert check(figures, ReleaseSettings(), max_known_answers_lost=0.25).passed
    assert check(figures, ReleaseSettings(stage="actor_sft")).passed
    assert check(make_figures(), ReleaseSettings()).description.startswith("not asked")


def test_each_model_is_asked_and_every_reply_is_kept(
    evaluation_inputs: dict[str, Path],
    make_spec: Callable[..., StageSpec],
    tiny_base_folder: Path,
    tmp_path: Path,
) -> None:
    # The tiny base's own words are the known answer: it loses none of them, and the actors may.
    asked = ["alpha", "bravo charlie"]
    tokenizer = AutoTokenizer.from_pretrained(tiny_base_folder)
    model = AutoModelForCausalLM.from_pretrained(tiny_base_folder).eval()
    said = []
    for question in asked:
        ids = tokenizer.apply_chat_template(
            [{"role": "user", "content": question}],
            add_generation_prompt=True,
            return_tensors="pt",
            return_dict=True,
        )
        with torch.no_grad():
            made = model.generate(**ids, max_new_tokens=12, do_sample=False)
        reply = made[0, ids["input_ids"].shape[1] :]
        said.append(tokenizer.decode(reply))
    file = tmp_path / "known.json"
    rows = [{"question": q, "accepted": ["nobody says this"]} for q in asked]
    file.write_text(json.dumps(rows))
    actor = {"model": "scratch", "max_sequence_length": 128, "max_tokens": 12}
    settings = {
        "llm": {"provider": "rules"},
        "actor_config": actor,
        "evaluation": {"known_answers": str(file)},
    }
    inputs = {**evaluation_inputs, "actor_base": tiny_base_folder}
    spec = make_spec("evaluation", settings, inputs)
    outcome = run(spec, Progress("evaluation", lambda line: None))
    lines = (Path(spec.output) / KNOWN_FILE).read_text().splitlines()
    replies = [json.loads(line) for line in lines]
    assert [row["question"] for row in replies] == asked
    assert [row["actor_base"]["reply"] for row in replies] == said
    # actor_sft is the same model here.
    assert [row["actor_sft"] for row in replies] == [row["actor_base"] for row in replies]
    known = Evaluation.read(Path(spec.output)).figures.known_answers
    assert known == KnownAnswers(2, 0, 0, 0, 0, 0)
    assert outcome.metrics["known_answers.asked"] == 2
    assert "base 0/2, SFT 0/2, PPO 0/2" in (Path(spec.output) / "report.html").read_text()


def test_a_right_answer_of_the_base_counts_for_those_that_keep_it(tmp_path: Path) -> None:
    figures = dataclasses.asdict(KnownAnswers.count([True], [True], [False]))
    assert figures == {
        "asked": 1,
        "base": 1,
        "actor_sft": 1,
        "actor_ppo": 0,
        "kept_by_sft": 1,
        "kept_by_ppo": 0,
    }


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, r"does not exist; its shape is"),
        ("[", r"is no JSON in UTF-8"),
        ("[]", r"is no list of questions"),
        ('[{"question": "?"}]', r"row 1: it has not just question and accepted"),
        ('[{"question": "", "accepted": ["a"]}]', r"row 1, field question: '' is no text"),
        ('[{"question": "a?", "accepted": "a"}]', r"row 1, field accepted: 'a' is no list"),
        (
            '[{"question": "a?", "accepted": ["a"]}, {"question": "a?", "accepted": ["b"]}]',
            r"asks a question twice",
        ),
    ],
)
def test_a_file_that_cannot_be_asked_is_an_error_of_the_settings(
    tmp_path: Path, content: str | None, said: str
) -> None:
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "config.yaml").write_text("evaluation: {known_answers: known.json}")
    if content is not None:
        (folder / "known.json").write_text(content)
    with pytest.raises(SettingsError, match=rf"evaluation\.known_answers: .*known\.json.*{said}"):
        load_assistant("mine", root=tmp_path)


def test_the_base_is_an_input_only_where_there_are_questions(tmp_path: Path) -> None:
    def upstream(**evaluation: Any) -> list[str]:
        settings = AssistantSettings.model_validate({"evaluation": evaluation})
        return ASSETS["evaluation"].upstream_for(settings)

    assert "actor_base" in upstream(known_answers="known.json")
    assert "actor_base" not in upstream()


def test_the_questions_of_the_example_are_read() -> None:
    file = Path(__file__).parents[2] / "examples" / "smollm" / "known_answers.json"
    assert len(read_known_questions(file, "evaluation.known_answers")) == 60
