"""Data loading: betons in, batches of uint8 images out."""
