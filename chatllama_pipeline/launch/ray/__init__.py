"""Ray as the scheduler of jobs: an actor on the cluster sees a job through, on nodes of a group.

Only `driver`, which has a process of its own, and what it sends to the cluster import Ray.
"""
