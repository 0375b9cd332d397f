"""Many clients at once of a served release: people who rate it, and some who mean ill."""
