"""Pure planning: legal cuts and the choice among them. No file, clock or network."""
