"""What is removed from Dagster when a person asks: an assistant, or runs of long ago."""
