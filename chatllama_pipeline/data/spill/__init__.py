"""Many rows and texts in bounded memory: columns that go on on disk, a table of fixed size."""
