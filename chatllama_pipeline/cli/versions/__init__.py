"""Commands about versions: what there is, comparing, going back, pruning, forgetting an assistant.

Each imports what it needs when it runs.
"""
