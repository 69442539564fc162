"""Training: betons in, a run folder with checkpoints out."""
