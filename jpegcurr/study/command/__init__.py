"""Studies of anybody's trainer: a command with placeholders in place of a recipe, and a number that it writes."""
