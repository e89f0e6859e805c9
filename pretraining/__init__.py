"""Produces encoders: image sets, views, losses, the inner maximisation and the methods."""
