"""Every family of language models is right in every role, or refused at its base with a reason."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from chatllama_pipeline.models.quiet import quiet_transformers
from chatllama_pipeline.serving.chat import chat_once
from tests.families.every import families, make
from tests.families.sweep import RECORD, RIGHT, judge, table
from tests.families.test_stages import Chain, figures, settings

RECORDED = json.loads(RECORD.read_text())
# By default: a state, two mixed caches, layers of two sizes, experts, a buffer of its own, no
# cache, no masks, an error.
DEFAULT = {
    *("mamba", "qwen3_5_text", "lfm2", "gemma4_text", "mixtral", "falcon_h1", "ctrl", "rwkv"),
    "xlnet",
}
EACH = [
    pytest.param(name, marks=[] if name in DEFAULT else [pytest.mark.slow]) for name in families()
]
PAGE = Path(__file__).parents[2] / "docs/making/models.md"


def without_numbers(found: dict[str, str]) -> dict[str, str]:
    return {role: re.sub(r"[\d.]+ nats|by [\d.e-]+", "...", said) for role, said in found.items()}


@pytest.mark.parametrize("family", EACH)
@pytest.mark.filterwarnings("ignore")
def test_a_family_is_what_the_record_says_of_it(family: str, tmp_path: Path) -> None:
    quiet_transformers()
    assert without_numbers(judge(family, tmp_path)) == without_numbers(RECORDED[family])


def test_of_no_family_it_is_recorded_that_something_is_wrong() -> None:
    assert set(RECORDED) == set(families())
    for family, found in RECORDED.items():
        for role, said in found.items():
            told = said == RIGHT or said.startswith(("refused: ", "decodes "))
            assert told, f"{family}: {role} is {said}"


def test_the_docs_families_are_those_of_the_record() -> None:
    assert "\n".join(table(RECORDED)) in PAGE.read_text()


@pytest.mark.parametrize(
    "family",
    [
        "qwen3_5_text",
        *(pytest.param(name, marks=pytest.mark.slow) for name in ("mamba", "rwkv", "falcon_h1")),
        *(pytest.param(name, marks=pytest.mark.slow) for name in ("mixtral", "bart", "ctrl")),
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_a_family_of_another_kind_goes_through_every_stage(
    family: str, tmp_path: Path, tables: dict[str, Path]
) -> None:
    """Actor and reward model of that family, with switches on that people publish with."""
    quiet_transformers()
    source = make(family, tmp_path / "source")
    config = json.loads((source / "config.json").read_text())
    turned = {"output_router_logits": True, "output_hidden_states": True, "use_cache": False}
    (source / "config.json").write_text(json.dumps({**config, **turned}))
    (tmp_path / "chain").mkdir()
    sections = settings(source, source)
    for section in ("actor_config", "reward_config"):
        sections[section]["max_steps"] = 2
    chain = Chain(tmp_path / "chain", tables, sections)
    ppo = chain.outcome("actor_ppo")
    assert all(check.passed for check in ppo.checks)
    assert figures(ppo, "ratio_max")[0] == pytest.approx(1.0, abs=1e-3)
    assert figures(ppo, "kl")[0] == pytest.approx(0.0, abs=1e-3)
    release = chain.folder("release")
    generation = json.loads((release / "generation_config.json").read_text())
    assert generation.get("use_cache", True) is (family != "rwkv")
    assert isinstance(chat_once(release, "alpha"), str)
