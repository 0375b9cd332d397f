"""What a judge's words say: a score, a choice, or nothing that can be read."""
