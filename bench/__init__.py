"""Finetunes and attacks encoders; writes records."""
