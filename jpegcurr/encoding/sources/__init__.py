"""Labelled data sets that can be encoded: one module for each kind."""
