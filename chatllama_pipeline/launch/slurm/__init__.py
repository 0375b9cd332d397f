"""Slurm as the scheduler of jobs: what it is asked for, and what it says."""
