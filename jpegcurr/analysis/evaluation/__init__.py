"""Accuracy of runs at JPEG qualities, and paired comparisons of them."""
