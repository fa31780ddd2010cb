"""Command line: parse, call, print; one module per verb."""
