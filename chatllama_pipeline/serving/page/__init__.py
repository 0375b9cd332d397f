"""A page to talk to an assistant and to rate its replies, served beside its API."""
