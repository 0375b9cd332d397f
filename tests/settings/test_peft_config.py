"""The original's `peft_config.yaml`: what it fills, and every way in which it can be wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from chatllama_pipeline.errors import SettingsError
from chatllama_pipeline.settings.folder import load_assistant


def write(root: Path, name: str, config: str) -> Path:
    folder = root / name
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.yaml").write_text(config)
    return folder


def with_peft_config(
    root: Path, text: str, config: str = "actor_config: {peft_enable: true}"
) -> None:
    (write(root, "mine", config) / "peft_config.yaml").write_text(text)


def test_the_originals_peft_config_fills_lora_and_what_the_config_says_wins(tmp_path: Path) -> None:
    # The original's artifacts/config/peft_config.yaml, key by key, with another rank.
    with_peft_config(
        tmp_path,
        "inference_mode: False\nr: 4\nlora_alpha: 32\nlora_dropout: 0.1\n"
        "target_modules: [q_proj, v_proj]\n",
        "actor_config: {peft_enable: true, lora: {lora_alpha: 8}}",
    )
    settings = load_assistant("mine", {"actor_config.lora.lora_dropout": 0.2}, tmp_path).settings
    lora = settings.actor_config.lora
    assert (lora.r, lora.lora_alpha, lora.lora_dropout) == (4, 8, 0.2)
    assert lora.target_modules == ["q_proj", "v_proj"]
    assert settings.reward_config.lora.r == settings.critic_config.lora.r == 4


def test_without_a_peft_config_lora_has_the_originals_values(tmp_path: Path) -> None:
    write(tmp_path, "mine", "actor_config: {peft_enable: true}")
    lora = load_assistant("mine", root=tmp_path).settings.actor_config.lora
    assert (lora.r, lora.lora_alpha, lora.lora_dropout) == (8, 32, 0.1)


def test_a_peft_config_that_is_not_where_the_config_says_is_told(tmp_path: Path) -> None:
    config = "actor_config: {peft_enable: true, peft_config_path: ./artifacts/config/peft.yaml}"
    write(tmp_path, "mine", config)
    (warning,) = load_assistant("mine", root=tmp_path).warnings
    assert warning.endswith("peft.yaml does not exist; the defaults of lora are used")
    with_peft_config(tmp_path, "r: 2", config)
    mine = load_assistant("mine", root=tmp_path)
    assert mine.warnings[0].endswith("mine/peft_config.yaml is read")
    assert mine.settings.actor_config.lora.r == 2


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("r: 0", "peft_config.yaml: r: 0: input should be greater than or equal to 1"),
        ("rank: 8", "peft_config.yaml: unknown key rank; those there are: r, lora_alpha"),
        ("inference_mode: true", "inference_mode: true would train nothing; set it to false"),
        ("- r", "peft_config.yaml holds a list, not `key: value` lines"),
        ("r: [", "peft_config.yaml is not valid YAML"),
    ],
)
def test_a_wrong_peft_config_is_refused_with_its_file_and_key(
    tmp_path: Path, text: str, told: str
) -> None:
    with_peft_config(tmp_path, text)
    with pytest.raises(SettingsError) as caught:
        load_assistant("mine", root=tmp_path)
    assert told in str(caught.value)
