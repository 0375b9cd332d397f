"""The made-up language of the quickstart: rows for machines that have nothing."""
