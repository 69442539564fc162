"""Audits of data sets: what their JPEGs are, and whether headers alone tell the labels."""
