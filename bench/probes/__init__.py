"""The probes: one file each, found by its name."""
