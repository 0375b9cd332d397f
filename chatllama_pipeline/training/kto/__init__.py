"""Kahneman-Tversky optimisation: thumbs, loss, figures; `stage` is where it starts."""
