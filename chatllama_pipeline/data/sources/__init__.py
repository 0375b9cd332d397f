"""Public data, from a hub, a folder or a URL, as Parquet at a revision."""
