"""Trained networks and their tokenizers, from names, folders and files."""
