"""What Sphinx is told about our docstrings and lists: text in, text out, none of it needs Sphinx."""
