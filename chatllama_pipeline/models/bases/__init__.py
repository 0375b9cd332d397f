"""A published, local, GGUF or from-scratch model becomes a base that a stage can train."""
