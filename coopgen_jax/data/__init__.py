"""Sets of texts: read, split into halves, cut into pieces."""
