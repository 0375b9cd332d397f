"""The assets, their partitions, specs and metadata; what builds them is asked of the engine."""
