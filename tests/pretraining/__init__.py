"""Tests of the room that produces encoders."""
