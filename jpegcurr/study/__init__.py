"""Arms times seeds: runs that differ in one thing, what became of them, and whether the difference is real."""
