"""What measures texts."""
