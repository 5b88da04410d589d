"""A synthetic cohort with known truth: physically modelled DCE-MRI of liver lesions, laid out as LLD-MMRI."""

PHANTOM_VERSION = "1"
"""Raised whenever any patient's images or truth would change. Frozen without a look at any pre-training."""
SECOND_VERSION = "second-1"
"""The same of the second phantom, which judges. Frozen without a look at any network's score on it."""
