"""Room 1: images in, ``.beton`` files out. Nothing here imports torch."""
