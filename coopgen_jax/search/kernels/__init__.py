"""What a TPU does of a search in kernels of its own: selection and backup of a wave."""
