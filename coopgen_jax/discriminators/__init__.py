"""What judges a text: contracts, kinds and trained heads."""
