"""The terms of PPO's reward: a person's functions, a judge, the reward model, and their sum."""

# What the names of a term's curves begin with: on the common scale, and as it was given.
SCALED, RAW = "reward/", "raw_reward/"
