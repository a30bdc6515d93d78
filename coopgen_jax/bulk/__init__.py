"""Many texts: files of them that grow and are gone on with, and many machines."""
