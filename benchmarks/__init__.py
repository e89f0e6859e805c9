"""What the gate costs and how often it errs, and what the rest costs beside its peers."""
