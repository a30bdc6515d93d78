"""Comparison of methods: their texts for the same prompts, written to files, and measured."""
