"""PPO, RLOO and GRPO: rollouts, rewards, the update, the loop; `stage` is where they start."""
