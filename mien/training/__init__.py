"""Training: from recipe to run folder."""
