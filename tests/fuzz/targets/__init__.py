"""One reader under fuzz per file."""
