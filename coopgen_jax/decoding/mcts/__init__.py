"""Guided Monte Carlo tree search as a decoder."""
