"""Blind trials: people compare the replies of two versions, unseen which wrote which."""
