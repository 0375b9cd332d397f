"""`chatllama doctor`: what stands in the way of a run, looked for without starting one.

Each check is one function that yields findings and changes nothing.
"""
