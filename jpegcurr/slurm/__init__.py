"""Slurm: what runs inside a job, and how jobs are submitted and followed."""
