"""Rules on what may follow a text, and where its next token is drawn."""
