"""Speed of depproxy beside docker-registry and nginx: one machine, one run, one input, told as ratios."""
