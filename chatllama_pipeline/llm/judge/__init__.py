"""Scores and verdicts: what a judge is told, the rubric, agreement with people."""
