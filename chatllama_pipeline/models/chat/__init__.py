"""Conversations as tokens: templates, thoughts, plain text."""
