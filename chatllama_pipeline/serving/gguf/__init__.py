"""A release as llama.cpp and Ollama run it: converted, rounded, compared with what it was made
from, and asked; `export` puts it together."""
