"""What a TPU does of a search in kernels of its own: selection of a wave."""
