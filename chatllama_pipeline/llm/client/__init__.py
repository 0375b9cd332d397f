"""Calls to servers that speak the OpenAI API: cached, limited, retried, paid for."""
