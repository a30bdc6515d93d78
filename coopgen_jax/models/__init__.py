"""Networks, and what they have read."""
