"""Versions over time: listed, compared, gone back to, pruned, forgotten, and how fresh they are."""
