"""Encoding of labelled images into ``.beton`` files; README.md in this folder is the map. Nothing here imports torch."""
