"""The best of n replies, imitated: sampling, scores, choice; `stage` is where it starts."""
