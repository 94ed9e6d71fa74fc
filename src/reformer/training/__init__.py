"""Training, its evaluation, and everything that a run leaves on disk."""
