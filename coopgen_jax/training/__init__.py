"""Training: from data to parameters."""
