"""Models of any family: loading, heads, generation.

Loose here is what every room needs; what differs by family lives in `families`.
"""
