"""A model of one's own as judge or writer: a child process, its questions and replies."""
