"""Keys of the original ChatLLaMA that are accepted and no longer do what their name said."""

from __future__ import annotations

# Section and key -> what stands in its place; each use of one is answered with a warning.
TAKEN: dict[str, str] = {
    "trainer_config.checkpoint_name": (
        "the newest unfinished state is continued; use store.pins to go back"
    ),
    "actor_config.model_folder": "models are kept as versions in the store (CHATLLAMA_STORE)",
    "actor_config.validation_dataset_path": (
        "validation rows are chosen by the hash of the first user turn "
        "(data.validation_share), so that no conversation stands on two sides; this file is"
        " not read"
    ),
    "actor_config.use_fairscale": "fairscale is retired; nothing is sharded by it",
    "actor_config.min_tokens": (
        "replies end where the model ends them; a forced length would bend PPO"
    ),
    "actor_config.additonal_prompt_tokens": (
        "prompts are measured in tokens, no allowance is needed"
    ),
    "actor_config.iteration_per_print": "progress is printed every few seconds",
    "actor_config.checkpoint_name": (
        "the newest unfinished state is continued; use store.pins to go back"
    ),
    "actor_config.accelerate_enable": "accelerate always places the model",
    "reward_config.model_folder": "models are kept as versions in the store (CHATLLAMA_STORE)",
    "reward_config.model_head_hidden_size": "the head is one linear layer on the last token",
    "reward_config.validation_dataset_path": (
        "validation rows are chosen by the hash of the first user turn "
        "(data.validation_share); this file is not read"
    ),
    "reward_config.iteration_per_print": "progress is printed every few seconds",
    "reward_config.checkpoint_name": (
        "the newest unfinished state is continued; use store.pins to go back"
    ),
    "reward_config.accelerate_enable": "accelerate always places the model",
    "critic_config.model": (
        "the critic starts from the reward model where that shares the actor's tokenizer, "
        "else from the SFT weights with a fresh head"
    ),
    "critic_config.model_folder": "the critic is kept beside the actor's version in the store",
    "critic_config.model_head_hidden_size": "the head is one linear layer",
    "critic_config.max_sequence_length": (
        "actor_config.max_sequence_length holds for the critic too"
    ),
    "critic_config.checkpoint_name": (
        "the newest unfinished state is continued; use store.pins to go back"
    ),
}
