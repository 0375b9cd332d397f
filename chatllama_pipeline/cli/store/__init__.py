"""`chatllama store`: whether a place is fit for a store, and versions from one store to another.

Each imports what it needs when it runs.
"""
