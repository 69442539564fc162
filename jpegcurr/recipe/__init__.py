"""Recipes: every field of a training run, and their loading from YAML."""
