"""Models: the bases, the reward model, the fine-tuned actor, and the actor after PPO."""

from functools import partial

from assets.specs import stage_asset

_model = partial(stage_asset, group="models", kinds=("pytorch", "huggingface"))

actor_base = _model(
    "actor_base", description="The weights and tokenizer that the actor starts from."
)
reward_base = _model(
    "reward_base", description="The weights and tokenizer that the reward model starts from."
)
reward_model = _model(
    "reward_model",
    description="The model that scores replies, from preference pairs and scores.",
)
actor_sft = _model(
    "actor_sft", description="The actor after supervised fine-tuning on its dataset."
)
actor_ppo = _model(
    "actor_ppo", description="The actor after PPO against the reward model, with its critic."
)
