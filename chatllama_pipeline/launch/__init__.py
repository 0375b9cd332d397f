"""Child processes, from the command that starts them to how they end.

What a stage does inside of its child lives on the floors above.
"""
