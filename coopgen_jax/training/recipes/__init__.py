"""Trainings by name: data in, a folder with a network or a head out."""
