"""Writer, judge and the evaluation's judge: what each takes over, what is missing, what is told."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from chatllama_pipeline.errors import SettingsError
from chatllama_pipeline.settings import AssistantSettings, Price
from chatllama_pipeline.settings.assistant import ROLES
from chatllama_pipeline.settings.folder import load_assistant

OPENAI = {"provider": "openai", "model": "big", "price": {"input": 2, "output": 8}}


def settings(llm: dict[str, Any], judge: Any = None) -> AssistantSettings:
    return AssistantSettings.model_validate({"llm": llm, "evaluation": {"judge": judge}})


def test_what_stands_at_llm_holds_for_all_three_roles() -> None:
    made = settings({**OPENAI, "base_url": "http://127.0.0.1:9/v1/", "max_usd": 3})
    for name in ROLES:
        role = made.role(name)
        assert (role.key, role.provider, role.model) == ("llm", "openai", "big")
        assert role.base_url == "http://127.0.0.1:9/v1"
        assert role.price == Price(input=2, output=8)
        assert role.max_usd == 3
    assert made.role("writer").temperature == 1.0
    assert made.role("judge").temperature == 0.1


def test_a_roles_own_keys_come_first() -> None:
    made = settings(
        {**OPENAI, "judge": {"temperature": 0, "max_tokens": 9}},
        {"model": "other", "price": "free"},
    )
    assert made.role("writer").max_tokens == 512
    assert (made.role("judge").temperature, made.role("judge").max_tokens) == (0, 9)
    assert made.role("judge").price == Price(input=2, output=8)
    evaluation = made.role("evaluation_judge")
    assert (evaluation.key, evaluation.model, evaluation.temperature) == (
        "evaluation.judge",
        "other",
        0,
    )


def test_a_role_with_another_provider_takes_nothing_over() -> None:
    made = settings({**OPENAI, "judge": {"provider": "transformers", "model": "./flan"}}, "rules")
    judge = made.role("judge")
    assert (judge.provider, judge.model) == ("transformers", "./flan")
    assert judge.price == Price(input=0, output=0)
    assert made.role("evaluation_judge").provider == made.judge == "rules"
    assert settings({"provider": "rules"}, "none").judge == "none"
    assert settings({"provider": "rules"}).judge == "rules"


@pytest.mark.parametrize(
    ("llm", "judge", "message"),
    [
        ({"provider": "openai"}, None, "llm.model is missing"),
        ({"judge": {"provider": "transformers"}}, None, "llm.judge.model is missing"),
        (
            {"provider": "openai", "model": "big"},
            None,
            "llm.prices has no price for 'big' (llm.model): set llm.price or llm.prices to",
        ),
        # The price of another model is not this one's.
        (OPENAI, {"model": "gate"}, "llm.prices has no price for 'gate' (evaluation.judge.model)"),
        (
            {"provider": "openai", "model": "big", "prices": {"big": "free"}},
            {"model": "gate"},
            "llm.prices has no price for 'gate' (evaluation.judge.model)",
        ),
        (
            {"provider": "transformers", "model": "./m", "batch": True},
            None,
            "llm.batch: true needs provider: openai",
        ),
    ],
)
def test_what_a_role_lacks_is_told_before_anything_runs(
    llm: dict[str, Any], judge: Any, message: str
) -> None:
    with pytest.raises(ValueError, match="llm") as refusal:
        settings(llm, judge)
    assert message in str(refusal.value)


def load(tmp_path: Path, config: str) -> Any:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "config.yaml").write_text(config)
    return load_assistant("mine", root=tmp_path)


def test_a_provider_named_wrongly_is_told_with_those_there_are(tmp_path: Path) -> None:
    with pytest.raises(
        SettingsError, match="'none', 'rules', 'rubric', 'openai' or 'transformers'"
    ):
        load(tmp_path, "llm: {judge: {provider: openapi}}")


def test_a_roles_misspelt_key_is_told_with_the_right_one(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"evaluation\.judge\.modle; did you mean 'model'\?"):
        load(tmp_path, "evaluation: {judge: {modle: x}}")


def test_the_originals_models_are_taken_with_a_word_on_todays_way(tmp_path: Path) -> None:
    loaded = load(
        tmp_path,
        "llm: {provider: openai, prices: {text-davinci-003: unknown, gpt-3.5-turbo: free}, "
        "model: text-davinci-003, judge: {model: gpt-3.5-turbo}}",
    )
    writer, judge = (loaded.settings.role(name) for name in ("writer", "judge"))
    assert (writer.model, writer.style) == ("text-davinci-003", "completion")
    assert (judge.model, judge.style) == ("gpt-3.5-turbo", "chat")
    first, second = loaded.warnings
    assert "llm.model: 'text-davinci-003' is sent as it is" in first
    assert "choose a chat model that https://api.openai.com/v1/models lists" in first
    assert "llm.judge.model: 'gpt-3.5-turbo' is sent as it is" in second


def test_no_model_is_anybodys_default() -> None:
    made = AssistantSettings()
    assert {made.role(name).model for name in ROLES} == {""}
    assert {made.role(name).provider for name in ROLES} == {"none"}


def test_a_local_model_is_found_beside_the_config_and_counts_by_its_files(tmp_path: Path) -> None:
    loaded = load(
        tmp_path,
        "llm: {writer: {provider: transformers, model: ./flan}}\nevaluation: {judge: none}",
    )
    assert loaded.settings.role("writer").model == str(tmp_path / "mine" / "flan")


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("http://127.0.0.1:99999/v1", "is no URL"),
        ("http://127.0.0.1:0/v1", "names no server"),
        ("http:///v1", "names no server"),
        ("http://[::1/v1", "is no URL"),
    ],
)
def test_a_url_that_leads_nowhere_is_told_before_anything_runs(url: str, told: str) -> None:
    with pytest.raises(ValueError, match="llm") as refusal:
        settings({**OPENAI, "base_url": url})
    assert f"llm.base_url: {url!r} {told}" in str(refusal.value)


def test_a_url_as_consoles_show_it_becomes_a_base_url() -> None:
    for given, plain in {
        "http://h/v1/": "http://h/v1",
        "http://h/v1/chat/completions": "http://h/v1",
        "https://h/openai/deployments/d/chat/completions?api-version=1": (
            "https://h/openai/deployments/d?api-version=1"
        ),
    }.items():
        role = settings({**OPENAI, "base_url": given}).role("judge")
        assert role.base_url == plain
    assert role.models_url == "https://h/openai/deployments/d/models?api-version=1"
