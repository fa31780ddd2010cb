"""The parts of the live page: each builds its elements once and updates them from a Snapshot."""
