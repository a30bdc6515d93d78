"""The same guided search in PyTorch, twice: as it was published, and as well as it can be done."""
