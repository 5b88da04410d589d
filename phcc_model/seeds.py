"""One seed, many independent streams: a random draw is a function of its name, never of what ran before it."""

from __future__ import annotations

import hashlib

import numpy as np


def derive_seed(seed: int, *names: str | int) -> int:
    """A 63-bit seed for the stream called by these names (SHA-256; the same on every machine)."""
    text = "\x1f".join([str(seed), *(str(name) for name in names)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def generator(seed: int, *names: str | int) -> np.random.Generator:
    """A numpy generator for the stream called by these names."""
    return np.random.default_rng(derive_seed(seed, *names))
