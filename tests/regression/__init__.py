"""The regression gate: the judge on a stored classifier, image by image."""
