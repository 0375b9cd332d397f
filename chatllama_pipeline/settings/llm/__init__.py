"""The settings of who writes and judges: providers, roles, rubric."""
