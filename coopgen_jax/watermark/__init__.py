"""Watermarks after generation: the tests that find a mark in a text, and how surely they do."""
