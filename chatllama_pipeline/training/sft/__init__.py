"""Supervised fine-tuning; `stage` is where it starts."""
