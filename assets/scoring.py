"""Scoring: a judge's 0..5 where no score stands."""

from assets.making import Work, built_asset
from chatllama_pipeline.llm.scoring import build_reward_training_data
from chatllama_pipeline.records import Outcome


@built_asset("reward_training_data", group="scoring", kinds=("python", "parquet"))
def reward_training_data(work: Work) -> Outcome:
    """The third dataset: completions with scores; scores that stood already are kept."""
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
        )
