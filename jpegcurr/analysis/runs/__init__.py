"""Runs side by side: their folders, a table of them, and their page."""
