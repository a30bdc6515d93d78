"""What the decoders wrote before the package was reordered, kept so that they go on writing it."""
