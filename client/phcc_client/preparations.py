"""The ways in which one site's cases are prepared: a folder each, named after what alters a voxel.

A study may need several (an arm that sees a single phase, say); an order carries its study, and the study says
which one is meant.
"""

from __future__ import annotations

from pathlib import Path

from phcc_client.imaging.cache import preparation_digest
from phcc_client.site import Site
from phcc_model.config import DataSettings


def preparation_folder(site: Path, settings: DataSettings) -> Path:
    """Where a site's cases stand, prepared as these settings ask."""
    return site / f"prepared-{preparation_digest(settings)[:16]}"


def open_prepared(site: Path, settings: DataSettings) -> Site:
    """A site's cases, prepared as these settings ask.

    Raises:
        DatasetError: they have not been prepared so.
        SplitError: a patient stands in two splits.
    """
    opened = Site.open(preparation_folder(site, settings))
    opened.must_suit(settings)
    return opened
