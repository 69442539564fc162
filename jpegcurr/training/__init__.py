"""Room 2: betons in, checkpoint out."""
