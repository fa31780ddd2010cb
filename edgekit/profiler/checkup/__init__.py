"""What this board can do, what is missing, and the command that mends it (`edgekit doctor`)."""
