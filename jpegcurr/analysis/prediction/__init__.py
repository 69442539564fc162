"""Predictions for image files, and what is written about them."""
