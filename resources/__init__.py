"""Dagster resources: processes and their devices, the store, the terminal, a run's options."""
