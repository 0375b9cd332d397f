"""The person's own files, read into rows whatever their shape."""
