"""One file per result to reproduce; see each file's first lines."""
