"""Room 3: checkpoint in, pictures and numbers out."""
