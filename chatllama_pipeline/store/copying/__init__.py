"""Versions from one store to another, local or in a bucket, with their history and approvals.

`ends` are the two stores alike; `run` copies between them.
"""
