"""Read-only live window on a fleet."""
