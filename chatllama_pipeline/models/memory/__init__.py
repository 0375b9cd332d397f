"""What fits: sizes, phases, rows at once, the plan that is checked before training."""
