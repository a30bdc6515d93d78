"""Distinctive captioning: a writer that is rewarded for captions that tell an image from others."""
