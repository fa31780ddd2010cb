"""The nouns that cross a process or a disk: frozen, strict, no behaviour."""
