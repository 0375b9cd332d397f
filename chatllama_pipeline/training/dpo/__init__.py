"""Direct preference optimisation: pairs, loss, figures; `stage` is where it starts."""
