"""What writes texts: one file per family of decoders."""
