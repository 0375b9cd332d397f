"""Synthetic data: what a writer writes from the assistant's templates and examples."""

from __future__ import annotations

from typing import TYPE_CHECKING

import dagster as dg

from assets.specs import built_asset

if TYPE_CHECKING:
    from assets.runs.making import Work
    from chatllama_pipeline.records import Outcome


def _written(name: str, description: str) -> dg.AssetsDefinition:
    def build(work: Work) -> Outcome:
        from chatllama_pipeline.llm.synthetic import build_synthetic

        with work.compute.machine(work.context, work.settings.role("writer")) as machine:
            return build_synthetic(
                name,
                work.folder("personal_data"),
                work.settings,
                work.output,
                work.bench.run_folder,
                work.progress,
                machine,
            )

    return built_asset(name, "synthetic", ("python", "parquet"), description)(build)


synthetic_conversations = _written(
    "synthetic_conversations", "Questions with good replies, for the actor to imitate."
)
synthetic_prompts = _written("synthetic_prompts", "Questions alone, for PPO to practise on.")
synthetic_completions = _written(
    "synthetic_completions", "Replies of several qualities, unscored, for the judge."
)
