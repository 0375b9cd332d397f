"""Synthetic rows: what a writer is told, what of its replies is kept."""
