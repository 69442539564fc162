"""Labelled data sets that can be encoded: a module for every layout, and ``open``, which lists them."""
