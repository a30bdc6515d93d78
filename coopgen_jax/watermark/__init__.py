"""Watermarks after generation: keys in files, and the tests that find a mark in a text."""
