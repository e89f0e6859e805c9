"""Tests of the two models of a robustness claim."""
