"""One file per timed thing; see each file's first lines."""
