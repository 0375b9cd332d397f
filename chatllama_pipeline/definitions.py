"""The code location: every asset, resource, job and sensor, in one list."""

import dagster as dg

from assets.assistant import assistant
from assets.datasets import (
    actor_training_data,
    data_audit,
    preference_data,
    reward_training_data,
    rlhf_training_data,
)
from assets.models import actor_base, actor_ppo, actor_sft, reward_base, reward_model
from assets.release import evaluation, fresh, release
from assets.sources import feedback, grammar, hh_rlhf, personal_data, shp
from assets.synthetic import (
    synthetic_completions,
    synthetic_conversations,
    synthetic_prompts,
)
from chatllama_pipeline.automation.folders import assistant_folders
from chatllama_pipeline.automation.jobs import JOBS
from chatllama_pipeline.automation.keys import assistants
from chatllama_pipeline.automation.lost import lost_runs
from chatllama_pipeline.automation.notices import failures, freshness_job, old_releases
from chatllama_pipeline.automation.retraining import new_feedback, retrain
from chatllama_pipeline.automation.rollback import rollback_job
from resources.compute_file import compute_here
from resources.console import console_logger
from resources.executor import one_process
from resources.run_options import run_options
from resources.store import StoreResource

definitions = dg.Definitions(
    assets=[
        # sources
        assistant,
        shp,
        hh_rlhf,
        grammar,
        personal_data,
        feedback,
        # data
        preference_data,
        # synthetic
        synthetic_conversations,
        synthetic_prompts,
        synthetic_completions,
        # ChatLLaMA's three datasets
        actor_training_data,
        rlhf_training_data,
        reward_training_data,
        data_audit,
        # models
        actor_base,
        reward_base,
        reward_model,
        actor_sft,
        actor_ppo,
        # evaluation, release
        evaluation,
        release,
    ],
    resources={
        "compute": compute_here(),
        "store": StoreResource(),
        "run_options": run_options,
    },
    asset_checks=[fresh],
    jobs=[*JOBS, rollback_job, freshness_job],
    sensors=[
        assistants,
        lost_runs,
        failures,
        old_releases,
        assistant_folders,
        retrain,
        new_feedback,
    ],
    loggers={"console": console_logger},
    # A training has its own process; a second one per step costs seconds and outlives a killed run.
    executor=one_process,
)
