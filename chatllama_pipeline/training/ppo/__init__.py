"""PPO: rollouts, rewards, the update, the loop; `stage` is where it starts."""
