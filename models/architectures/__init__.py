"""One network family per file."""
