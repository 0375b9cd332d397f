"""Jobs like the original's --type."""

import dagster as dg

reward_job = dg.define_asset_job(
    "reward",
    selection=dg.AssetSelection.assets("reward_model").upstream(),
    description="The reward model and all that it is made from.",
)
actor_job = dg.define_asset_job(
    "actor",
    selection=dg.AssetSelection.assets("actor_sft").upstream(),
    description="The fine-tuned actor and all that it is made from.",
)
rl_job = dg.define_asset_job(
    "rl",
    selection=dg.AssetSelection.assets("actor_ppo", "evaluation", "release"),
    description="PPO with the current actor and reward model, then evaluation and release.",
)
all_job = dg.define_asset_job(
    "all",
    selection=dg.AssetSelection.all(),
    description="Everything; what didn't change is reused.",
)
audit_job = dg.define_asset_job(
    "audit",
    selection=dg.AssetSelection.assets("data_audit").upstream(),
    description="The datasets and their audit, before anything is trained.",
)
JOBS = [audit_job, reward_job, actor_job, rl_job, all_job]
