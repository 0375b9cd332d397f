"""Published models, read from GGUF, through the whole chain: a few steps of each training."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from transformers import AutoModelForCausalLM, AutoTokenizer

from tests.pipeline.place import REPOSITORY, Place
from tests.published import registry
from tests.published.conftest import fetched

pytestmark = [pytest.mark.published, pytest.mark.timeout(3600)]

EXAMPLE = REPOSITORY / "examples" / "smollm"
ROWS = 60
# Enough steps for every stage to save and read its model; what is learnt is the example's to show.
STEPS = {
    "actor_config": {"batch_size": 2, "max_steps": 2, "evaluations": 1, "max_tokens": 8},
    "reward_config": {"batch_size": 2, "max_steps": 2, "evaluations": 1},
    "trainer_config": {
        "num_episodes": 1, "max_timesteps": 4, "update_timesteps": 4, "batch_size": 4, "epochs": 1,
    },
    "evaluation": {"prompts": 4, "bootstrap_samples": 100},
}  # fmt: skip


@pytest.mark.parametrize(
    ("fetch", "architecture"),
    [
        pytest.param(registry.smollm2_file, "LlamaForCausalLM", id="smollm2"),
        pytest.param(registry.gemma3_file, "Gemma3ForCausalLM", id="gemma3"),
    ],
)
def test_a_published_model_goes_through_the_whole_chain(
    fetch: Callable[[], Path], architecture: str, tmp_path: Path
) -> None:
    place = Place(tmp_path)
    folder = shutil.copytree(EXAMPLE, tmp_path / "assistants" / "published")
    for table in (folder / "datasets").iterdir():
        table.write_text("".join(table.read_text().splitlines(keepends=True)[:ROWS]))
    config = yaml.safe_load((EXAMPLE / "config.yaml").read_text())
    shutil.copyfile(fetched(fetch), folder / "model.gguf")
    for section, values in STEPS.items():
        config[section] |= values
    for section in ("actor_config", "reward_config"):
        config[section]["model"] = "model.gguf"
    questions = json.loads((EXAMPLE / "known_answers.json").read_text())[:3]
    (folder / "known_answers.json").write_text(json.dumps(questions))
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    finished = place.by_command("published", timeout=3000)
    assert finished.returncode == 0, finished.stderr[-3000:]
    base = place.store.read("actor_base", "published")
    assert base.manifest.metrics["gguf_quantization"] in ("Q4_1", "Q4_K_M")
    assert "model.gguf (Q4" in base.manifest.warnings[0]
    assert "reference and policy and critic and reward share one set" in finished.stderr
    ppo = place.store.read("actor_ppo", "published")
    curves = json.loads((ppo.path / "curves.json").read_text())
    assert curves["kl"][0][1] == pytest.approx(0, abs=1e-3)
    assert ppo.manifest.metrics["iterations"] == 1
    evaluation = place.store.read("evaluation", "published")
    known = json.loads((evaluation.path / "evaluation.json").read_text())["known_answers"]
    assert known["asked"] == 3

    # Nothing is learnt in two steps: a person approves.
    approved = place.chatllama("approve", "published")
    assert approved.returncode == 0, approved.stderr
    assert place.by_command("published", "release", timeout=600).returncode == 0
    released = place.store.read("release", "published").path
    model = AutoModelForCausalLM.from_pretrained(released)
    assert type(model).__name__ == architecture
    tokenizer = AutoTokenizer.from_pretrained(released)
    ids = tokenizer.apply_chat_template(
        [{"role": "user", "content": "What is the capital of France?"}],
        add_generation_prompt=True,
        return_tensors="pt",
        return_dict=True,
    )
    said = model.generate(**ids, max_new_tokens=12, do_sample=False)[0, ids["input_ids"].shape[1] :]
    assert tokenizer.decode(said, skip_special_tokens=True).strip()
