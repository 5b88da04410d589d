"""A coordinator for one benchmark: Flower's simulation carries every other round, memory the rest."""
