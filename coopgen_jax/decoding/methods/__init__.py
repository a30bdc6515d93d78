"""Decoders, one file each; the tree search has a folder."""
