"""LoRA: which layers, put in, merged, compared."""
