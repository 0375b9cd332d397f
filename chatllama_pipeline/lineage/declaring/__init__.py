"""How an asset says what it is made from: settings, other inputs, what counts for whom."""
