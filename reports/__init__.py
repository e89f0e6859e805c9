"""The readers of finished runs: they import neither torch nor anything that trains or attacks."""
