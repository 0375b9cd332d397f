"""Where the server listens, who may ask it and how much, and how it refuses."""
