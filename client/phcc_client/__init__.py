"""A site: images to cases, one order to one reply, and what may leave."""
