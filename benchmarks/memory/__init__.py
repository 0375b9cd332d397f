"""What trainings take of memory, and what the plan says of it."""
