"""What attention sinks are worth, and the texts to look for them in."""
