"""What fits: sizes, phases, rows at once, the plan that is checked before training."""

# The check that says whether it does.
MEMORY_PLAN = "memory_plan"
