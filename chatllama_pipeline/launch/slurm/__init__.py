"""Stages as batch jobs of a Slurm cluster, on one node or several that share a folder.

Slurm owns nodes, devices and time; a job's id stands in the run folder, and no job starts twice.
"""
