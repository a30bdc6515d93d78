"""Discriminators that run on the host, or read words instead of the model's tokens."""
