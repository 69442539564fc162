"""Studies: arms times seeds, runs that differ in one thing, and a verdict on whether the difference between them is real."""
