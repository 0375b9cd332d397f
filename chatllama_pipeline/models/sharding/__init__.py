"""Models that processes share out by DeepSpeed's ZeRO-3: how one is loaded, and what each holds."""
