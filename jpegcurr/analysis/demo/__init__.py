"""Demonstration: one picture at a JPEG quality of one's choice, as a model classifies and explains it."""
