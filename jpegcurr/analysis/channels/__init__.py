"""Channels of a network's layers at several JPEG qualities."""
