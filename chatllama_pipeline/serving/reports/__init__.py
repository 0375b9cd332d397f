"""Reports and audits by links that open: their addresses, and the read-only server behind them.

A server of its own, beside Dagster's page and of another origin: what a model wrote could reach
nothing there, even if it were no plain text.
"""
