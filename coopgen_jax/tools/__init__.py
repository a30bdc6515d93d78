"""Tools beside the library: predicted costs, a machine's speed, a search to look at."""
