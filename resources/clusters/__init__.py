"""What a run's config asks of a cluster: a class per launcher."""
