"""On the board: pull, verify, warm, capture, run, forward, answer."""
