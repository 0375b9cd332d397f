"""The settings of what is trained: bases, actor, reward model, PPO, adapters, trackers."""
