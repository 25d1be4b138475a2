"""Ways to train the published head, side by side: a file each."""
