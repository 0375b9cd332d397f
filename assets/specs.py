"""What every asset declares alike, so that an asset's own lines say only what is its own."""

import inspect
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import dagster as dg

from assets.code_links import code_links
from assets.partitions import ASSISTANTS
from chatllama_pipeline.data import CHECK_NAMES as DATA_CHECKS
from chatllama_pipeline.evaluation import CHECK_NAMES as EVALUATION_CHECKS
from chatllama_pipeline.launch import STAGES
from chatllama_pipeline.lineage.assets import ASSETS
from chatllama_pipeline.settings.data import SOURCES
from chatllama_pipeline.training import CHECK_NAMES as TRAINING_CHECKS
from resources.compute import Compute
from resources.refusals import refusing
from resources.run_options import RunOptions
from resources.store import StoreResource

if TYPE_CHECKING:
    from assets.runs.making import Work
    from chatllama_pipeline.records import Outcome

# The source that says what an assistant's folder holds.
ASSISTANT = "assistant"
OWNERS = ["team:assistants"]
# What the queue counts runs by whose stages may need a GPU.
POOL = "gpu"
Results = Iterator[dg.MaterializeResult[None] | dg.AssetCheckResult]
CHECK_NAMES = {**DATA_CHECKS, **TRAINING_CHECKS, **EVALUATION_CHECKS}
CHECK_TEXTS = {
    "schema": "Every row has the table's columns, of their types, and no null where none may be.",
    "not_empty": "There are rows at all.",
    "identical_pairs": "Few pairs have the same text as both replies (checks.max_identical_pairs).",
    "no_split_leak": "No conversation stands on two sides of the splits.",
    "length_only_accuracy": "Choosing the longer reply is seldom right "
    "(checks.max_length_only_accuracy): else a reward model learns length.",
    "enough_rows": "Enough scored replies for a reward model (checks.min_reward_rows).",
    "judge_agreement": "The judge prefers what people chose (checks.min_judge_agreement).",
    "judge_readable": "Few of the judge's verdicts could not be read (checks.max_judge_unread); "
    "where most could not, it blocks.",
    "split_overlap": "No training row's prompt is held out for validation or test, in any table.",
    "position_bias": "In comparisons neither side wins more than chance would have it.",
    "near_duplicates": "Few prompts that are nearly the same (checks.max_near_duplicates).",
    "alike_pairs": "Few pairs whose replies hardly differ (checks.max_alike_pairs).",
    "length_only_held_out": "On held-out pairs, lengths alone don't tell what people chose.",
    "personal_data": "Little personal data in the tables (checks.max_personal_data).",
    "unread_files": "Every file of the assistant's folder that looks like rows is read.",
    "memory_plan": "The stage fits into the memory that is free, before weights are loaded.",
    "finite_loss": "Losses and gradients stayed finite, but for single steps.",
    "collapse": "Replies became no repetitions, didn't shrink, and went on ending.",
    "reward_cheats": "What training pays for is no empty, endless or flattering reply "
    "(checks.max_cheat_wins).",
    "reward_hacking": "The gate's judge didn't fall on held-out prompts while the reward rose.",
    "release_gate": "The judge prefers the actor after PPO, within the limits on KL and length: "
    "what fails is held back, and the release before stays.",
    "reward_accuracy": "The reward model is right on unseen pairs (checks.min_reward_accuracy).",
    "kl_per_reply": "PPO stayed near the actor it began with (checks.max_kl, nats per reply).",
    "reply_length": "Replies got neither much longer nor shorter (checks.max_length_ratio).",
    "over_release": "The candidate wins no less than half against the release in use "
    "(release.min_win_rate_over_release).",
    "known_answers": "What the base knew is not lost (checks.max_known_answers_lost).",
}


def pipeline_asset(
    name: str,
    group: str,
    kinds: Sequence[str],
    description: str | None = None,
    output_required: bool = True,
    built_by: Callable[..., Any] | None = None,
) -> Callable[[Callable[..., Any]], dg.AssetsDefinition]:
    """`dg.asset` with what the asset of that `name` declares, its partitions and its checks.

    Upstream assets are `deps`: what is read of them is read from the store, verified. `built_by`
    is what people want to read, where it isn't the asset's own function.
    """

    def declared(build: Callable[..., Any]) -> dg.AssetsDefinition:
        asset = dg.asset(
            name=name,
            deps=deps_of(name),
            partitions_def=partitions_of(name),
            group_name=group,
            description=described(name, description or inspect.getdoc(build) or ""),
            metadata=code_links(name, built_by or build),
            kinds=set(kinds),
            owners=OWNERS,
            code_version=ASSETS[name].code_version,
            check_specs=asset_checks(name),
            output_required=output_required,
            pool=POOL if name in STAGES else None,
        )
        return asset(refusing(build))

    return declared


def built_asset(
    name: str, group: str, kinds: Sequence[str], description: str | None = None
) -> "Callable[[Callable[[Work], Outcome]], dg.AssetsDefinition]":
    """Turns the function that builds an asset's versions into the asset."""

    def asset(build: "Callable[[Work], Outcome]") -> dg.AssetsDefinition:
        @pipeline_asset(name, group, kinds, description or inspect.getdoc(build), built_by=build)
        def made(
            context: dg.AssetExecutionContext,
            compute: Compute,
            store: StoreResource,
            run_options: dg.ResourceParam[RunOptions],
        ) -> Results:
            from assets.runs.making import make

            yield from make(context, compute, store, run_options, build)

        return made

    return asset


def stage_asset(
    name: str, group: str, kinds: Sequence[str], description: str
) -> dg.AssetsDefinition:
    """An asset that the stage of its name builds, in a child process."""

    def build(work: "Work") -> "Outcome":
        from assets.runs.making import run_stage

        return run_stage(work)

    return built_asset(name, group, kinds, description)(build)


def described(name: str, description: str) -> str:
    """What an asset is, and which keys of config.yaml make it anew, by their sections."""
    settings = ASSETS[name].settings
    if not settings:
        return description
    sections: dict[str, list[str]] = {}
    for dotted in settings:
        section, _, key = dotted.partition(".")
        sections.setdefault(section, []).append(key)
    told = [
        f"- `{section}`" + (f": {', '.join(filter(None, keys))}" if any(keys) else "")
        for section, keys in sections.items()
    ]
    lines = "\n".join(told)
    return f"{description}\n\nA run makes it again where these settings changed:\n\n{lines}"


def asset_checks(asset: str) -> list[dg.AssetCheckSpec]:
    """The checks that a version of `asset` comes with; failed blocking ones keep it unpublished.

    Each is partitioned as its asset is, so that no assistant's result stands for another's.
    """
    with warnings.catch_warnings():
        # Partitions of checks are a preview of Dagster's; without them results mix.
        warnings.filterwarnings("ignore", "Specifying a partitions_def on an AssetCheckSpec")
        return [
            dg.AssetCheckSpec(
                name,
                asset=asset,
                blocking=blocking,
                description=CHECK_TEXTS[name],
                partitions_def=partitions_of(asset),
            )
            for name, blocking in CHECK_NAMES.get(asset, [])
        ]


def deps_of(asset: str) -> list[str]:
    """What an asset stands below: its upstream, and the assistant where it is one's own."""
    own = [ASSISTANT] if partitions_of(asset) else []
    return [*ASSETS[asset].upstream, *own]


def partitions_of(asset: str) -> dg.PartitionsDefinition[str] | None:
    """Assistants, but for the sources, which all of them share."""
    return None if asset in SOURCES else ASSISTANTS
