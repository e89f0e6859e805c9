"""Golden numbers: a dozen CPU steps of every method and scheme."""
