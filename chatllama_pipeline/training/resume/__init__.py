"""States of unfinished trainings: what they hold, how they are saved and taken up."""
