"""What a stage has no use for is not imported: each library takes longer than a small model."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from chatllama_pipeline.launch.child import child_environment
from chatllama_pipeline.records import StageSpec
from chatllama_pipeline.schemas import ACTOR_SCHEMA
from chatllama_pipeline.settings import AssistantSettings
from chatllama_pipeline.store.model_files import ADAPTER_CONFIG
from tests.tiny import MakeSpec, row
from tests.waiting import PATIENCE

REPOSITORY = Path(__file__).parents[3]

# The modules of the stages in an order in which each group may import a little more; actor_base is
# run, since saving a model is what brings DeepSpeed.
STAGE_BY_STAGE = """
import importlib, json, sys
from chatllama_pipeline.launch import stages
heavy = ("transformers.modeling_utils", "transformers.trainer", "peft", "deepspeed", "datasets",
         "openai", "dagster", "torch._dynamo")
found = {}
def note(name):
    found[name] = [module for module in heavy if sys.modules.get(module)]
importlib.import_module(stages.STAGES["release"].split(":")[0])
note("release")
assert stages.main(sys.argv[1:]) == 0
note("actor_base")
for stage in ("actor_ppo", "evaluation", "actor_sft", "reward_model"):
    importlib.import_module(stages.STAGES[stage].split(":")[0])
    note(stage)
print(json.dumps(found))
"""
HIDDEN = """
import importlib.util, pathlib, sys
from chatllama_pipeline.launch.hidden import ASKED_BY, hide_unused
from chatllama_pipeline.records import StageSpec
hide_unused(StageSpec.read(pathlib.Path(sys.argv[1])))
print(*sorted(name for name in ASKED_BY if importlib.util.find_spec(name)))
"""


def run_python(program: str, spec: StageSpec) -> str:
    """The last line that a process printed which ran `program` with the file of `spec`."""
    file = Path(spec.run_folder) / "spec.json"
    file.parent.mkdir()
    spec.write(file)
    ended = subprocess.run(
        [sys.executable, "-c", program, str(file)],
        cwd=REPOSITORY,
        env=child_environment(1),
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert ended.returncode == 0, ended.stderr
    return ended.stdout.splitlines()[-1]


def settings(**sections: dict[str, Any]) -> dict[str, Any]:
    return AssistantSettings.model_validate(sections).model_dump(mode="json")


def test_no_stage_imports_what_nobody_asked_for(
    make_spec: MakeSpec, tmp_path: Path, write_table: Any
) -> None:
    rows = [row("alpha", completion="bravo")]
    table = write_table(tmp_path / "data", rows, ACTOR_SCHEMA)
    size = {"scratch_hidden_size": 32, "scratch_heads": 2, "scratch_vocabulary": 300}
    asked = settings(actor_config={"model": "scratch", **size})
    spec = make_spec("actor_base", asked, {"actor_training_data": table})
    models, trainer = "transformers.modeling_utils", "transformers.trainer"
    # transformers takes this of torch's compiler with any model.
    dynamo = "torch._dynamo"
    assert json.loads(run_python(STAGE_BY_STAGE, spec)) == {
        "release": [],
        "actor_base": [models, dynamo],
        "actor_ppo": [models, dynamo],
        "evaluation": [models, dynamo],
        "actor_sft": [models, trainer, dynamo],
        "reward_model": [models, trainer, dynamo],
    }


@pytest.mark.parametrize(
    ("sections", "there"),
    [
        ({}, ""),
        ({"actor_config": {"peft_enable": True}}, "peft"),
        ({"critic_config": {"peft_enable": True}}, "peft"),
        ({"actor_config": {"zero_stage": 1}}, "deepspeed"),
        ({"reward_config": {"deepspeed_enable": True}}, "deepspeed"),
        ({"actor_config": {"trust_remote_code": True}}, "datasets deepspeed peft"),
    ],
)
def test_what_the_settings_ask_for_is_there(
    sections: dict[str, Any], there: str, make_spec: MakeSpec
) -> None:
    assert run_python(HIDDEN, make_spec("actor_sft", settings(**sections), {})) == there


def test_peft_is_there_for_an_adapter_that_was_trained_before(
    make_spec: MakeSpec, tmp_path: Path
) -> None:
    (tmp_path / ADAPTER_CONFIG).write_text("{}")
    spec = make_spec("release", settings(), {"actor_ppo": tmp_path})
    assert run_python(HIDDEN, spec) == "peft"
