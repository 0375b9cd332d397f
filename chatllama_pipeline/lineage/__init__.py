"""What each asset is made from, and so what is fresh: recipes, fingerprints, status."""
