"""The reward model: items, loss, report; `stage` is where it starts."""
