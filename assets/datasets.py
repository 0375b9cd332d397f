"""The preference pairs, and ChatLLaMA's three datasets with their audit."""

from __future__ import annotations

from typing import TYPE_CHECKING

from assets.specs import built_asset
from chatllama_pipeline.lineage.declaring.ratings import FEEDBACK

if TYPE_CHECKING:
    from assets.runs.making import Work
    from chatllama_pipeline.records import Outcome

_TABLE = ("python", "parquet")


@built_asset("preference_data", "data", _TABLE)
def preference_data(work: Work) -> Outcome:
    """Pairs of replies, the better one named, split by prompt."""
    from chatllama_pipeline.data.prepare.preferences import build_preference_data

    return build_preference_data(
        {name: work.folder(name) for name in work.settings.data.sources},
        work.folder("personal_data"),
        work.settings,
        work.output,
        work.optional(FEEDBACK),
    )


@built_asset("actor_training_data", "data", _TABLE)
def actor_training_data(work: Work) -> Outcome:
    """The first dataset: prompts with the replies that the actor imitates."""
    from chatllama_pipeline.data.prepare.datasets import build_actor_training_data

    return build_actor_training_data(
        work.folder("preference_data"),
        work.folder("synthetic_conversations"),
        work.folder("personal_data"),
        work.settings,
        work.output,
        work.optional(FEEDBACK),
    )


@built_asset("rlhf_training_data", "data", _TABLE)
def rlhf_training_data(work: Work) -> Outcome:
    """The second dataset: prompts that PPO practises on and evaluation asks."""
    from chatllama_pipeline.data.prepare.datasets import build_rlhf_training_data

    return build_rlhf_training_data(
        work.folder("preference_data"),
        work.folder("synthetic_prompts"),
        work.folder("personal_data"),
        work.settings,
        work.output,
        work.optional(FEEDBACK),
    )


@built_asset("reward_training_data", "scoring", _TABLE)
def reward_training_data(work: Work) -> Outcome:
    """The third dataset: completions with scores; scores that stood already are kept."""
    from chatllama_pipeline.llm.scoring import build_reward_training_data

    with work.compute.machine(work.context, work.settings.role("judge")) as machine:
        return build_reward_training_data(
            work.folder("preference_data"),
            work.folder("synthetic_completions"),
            work.folder("personal_data"),
            work.settings,
            work.output,
            work.bench.run_folder,
            work.progress,
            machine,
            work.optional(FEEDBACK),
        )


@built_asset("data_audit", "data", ("python", "html"))
def data_audit(work: Work) -> Outcome:
    """What the data are made of, as checks and a page: read it before anything is trained."""
    from chatllama_pipeline.data.audit.build import build_data_audit
    from chatllama_pipeline.data.own.unread import unread_files

    return build_data_audit(
        work.assistant.name,
        {name: version.path for name, version in work.inputs.items()},
        work.settings,
        work.output,
        unread_files(work.assistant.folder, work.settings),
    )
