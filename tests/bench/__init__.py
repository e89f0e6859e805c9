"""Tests of `robustcl.bench`."""
