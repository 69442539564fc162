"""Grad-CAM maps: computing and comparing them."""
