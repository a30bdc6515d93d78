"""Therapy: what a classifier looks for, explained without data by what is written under it."""
