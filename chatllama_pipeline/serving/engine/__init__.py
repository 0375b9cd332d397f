"""Many replies at once: what is asked of a model, how its next tokens are chosen, and the engines
that write them; `opening` says which engine a model gets."""
