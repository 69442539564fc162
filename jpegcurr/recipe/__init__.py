"""Recipes: every field of a training run, and how a YAML file becomes one."""
