"""A look at JPEG qualities before anything is encoded: error, rate and distortion of a set's images, and its bytes."""
