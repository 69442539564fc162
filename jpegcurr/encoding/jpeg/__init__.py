"""JPEG files: their headers, decoding and encoding."""
