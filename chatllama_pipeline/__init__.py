"""The engine of the assistant factory, which imports no Dagster (definitions and automation are the
exceptions).
"""
