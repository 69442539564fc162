"""FFCV's ``.beton`` files: format, writer, reader, manifest and verification."""
