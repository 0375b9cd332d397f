"""Kubernetes as the scheduler of jobs: what its API server is asked for, and what it says.

Only `api`, and that in the functions which ask, imports the client.
"""
