"""Stages as jobs of a cluster of nodes that share a folder: what is the same whoever runs them.

A job's id stands in the run folder, and no job starts twice.
"""
