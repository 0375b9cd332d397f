"""What the Launchpad of Dagster's page explains, and refuses before a run begins."""

from __future__ import annotations

from typing import Any

import pytest
from dagster import Field
from dagster._config.validate import validate_config

from chatllama_pipeline.definitions import definitions
from chatllama_pipeline.settings import AssistantSettings
from chatllama_pipeline.settings.reference import every_key

JOBS = [job.name for job in definitions.jobs or []]


def errors(**options: Any) -> list[str]:
    """What the Launchpad says of these run options."""
    schema = definitions.resolve_job_def("all").run_config_schema.config_type
    config = {"resources": {"run_options": {"config": options}}}
    return [error.message for error in validate_config(schema, config).errors or []]


@pytest.mark.parametrize(
    ("options", "refusal"),
    [
        ({"overrides": {"seed": 1, "actor_config.lr": 1, "data.max_length": None}}, ""),
        ({"overrides": {"store.pins": {"release": "0123"}, "store.pins.release": "0123"}}, ""),
        ({"overrides": {"data.sources": ["grammar"]}, "force": ["all", "actor_sft"]}, ""),
        ({"overrides": {"seed": "one"}}, 'overrides:seed. Value "one"'),
        ({"overrides": {"actor_config.lr": "fast"}}, 'actor_config.lr. Value "fast"'),
        ({"overrides": {"actor_config.batch_size": 1.5}}, 'batch_size. Value "1.5"'),
        ({"overrides": {"improve_by": "magic"}}, "not in enum type ppo | rloo | grpo | dpo"),
        ({"force": ["actor"]}, "force[0] not in enum type all | shp"),
        ({"overrides": {"actor_config.max_steps": 1.5}}, 'max_steps. Value "1.5"'),
        ({"promote": "yes"}, 'run_options:config:promote. Value "yes"'),
        ({"override": {}}, 'unexpected config entry "override"'),
    ],
)
def test_a_value_of_the_wrong_kind_is_refused_before_the_run(
    options: dict[str, Any], refusal: str
) -> None:
    told = errors(**options)
    assert len(told) == bool(refusal)
    assert refusal in "".join(told)


def test_the_launchpad_names_every_key_with_what_it_means() -> None:
    resource = definitions.resolve_job_def("all").resource_defs["run_options"]
    fields = resource.config_schema.config_type.fields["overrides"].config_type.fields  # type: ignore[union-attr]
    assert fields.keys() == {key.dotted for key in every_key()}
    assert {"seed", "actor_config.lr", "trainer_config.num_episodes", "store.keep_days"} <= set(
        fields
    )
    told = {name: field.description for name, field in fields.items()}
    assert told["seed"].startswith("whole number, at least 0; `0` unless set: everything random")
    assert all(": " in text for text in told.values())


def test_every_key_s_default_is_one_that_the_launchpad_takes() -> None:
    defaults = {}
    for key in every_key():
        value: Any = AssistantSettings().model_dump(mode="json")
        for part in key.dotted.split("."):
            if not isinstance(value, dict):  # of a section that is only there if somebody writes it
                break
            value = value[part]
        else:
            defaults[key.dotted] = value
    assert len(defaults) > 100
    assert errors(overrides=defaults) == []


@pytest.mark.parametrize("job", JOBS)
def test_a_job_opens_with_a_config_that_runs_as_it_stands(job: str) -> None:
    """Every field has a default, and a word on what it does."""
    schema = definitions.resolve_job_def(job).run_config_schema.config_type
    assert validate_config(schema, {}).success
    resources = schema.fields["resources"].config_type.fields
    for name in {"compute", "run_options"} & resources.keys():
        config = resources[name].config_type.fields["config"]
        for key, field in config.config_type.fields.items():
            assert isinstance(field, Field)
            assert field.default_provided and field.description, f"{job}: {name}.{key}"
