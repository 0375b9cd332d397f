"""`chatllama serve`, and `chatllama feedback` on what it served."""
