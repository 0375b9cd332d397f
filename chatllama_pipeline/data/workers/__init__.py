"""Batches of rows worked on here or, where rows are many, by several processes: the same comes of
it, in the same order."""
