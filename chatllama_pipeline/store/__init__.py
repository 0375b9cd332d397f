"""Versions on disk: payloads, manifests, the pool of files, what is in use, approvals.

It knows files and hashes, not what a version is made of or for.
"""
