"""Sources and own rows become the three datasets: selection, near duplicates, lengths, pairs."""
