"""Reports and audits by links that open: their addresses, and a read-only server of its own
origin behind them, where what a model wrote could reach nothing."""
