"""Many texts on many machines."""
