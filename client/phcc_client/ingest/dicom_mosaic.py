"""Siemens' mosaics: the slices of a volume side by side in one image, each given its own place here.

The header says where the whole mosaic would lie if it were one slice, centred where the first slice is; the
direction in which slices follow one another stands in the private CSA header, which nibabel reads.
"""

from __future__ import annotations

import math
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset, dcmread
from pydicom.tag import Tag

from phcc_client.ingest.dicom_geometry import Defect, plane_of
from phcc_client.ingest.dicom_values import Values, number, texts, whole

_IMAGES = Tag(0x0019, 0x100A)
_MOST = 1024


def mosaic_frames(path: Path, dataset: Dataset, said: Values) -> tuple[Values, ...]:
    """What each slice of a mosaic would say if it were an image of its own; empty for what is no mosaic.

    Args:
        path: the file.
        dataset: its header.
        said: what it says of its one frame.

    Returns:
        Rows, Columns and ImagePositionPatient of each slice, and its place in the mosaic: ``MosaicTile``, tile
        and tiles along an edge. A mosaic of which too little is said has a single frame without a position.
    """
    if "MOSAIC" not in {value.upper() for value in said.get("ImageType") or ()}:
        return ()
    unknown: tuple[Values, ...] = ({**said, "ImagePositionPatient": []},)
    count = whole({"n": texts(dataset, _IMAGES)}, "n")
    plane, gap = plane_of(said), number({"s": texts(dataset, Tag(0x0018, 0x0088))}, "s")
    if not count or not 1 < count <= _MOST or not gap or gap <= 0 or isinstance(plane, Defect):
        return unknown
    tiles = math.ceil(math.sqrt(count))
    normal = _normal(path)
    if normal is None or plane.rows % tiles or plane.columns % tiles:
        return unknown
    rows, columns = plane.rows // tiles, plane.columns // tiles
    down, right = (
        (plane.rows - rows) / 2 * plane.pixel_mm[0],
        (plane.columns - columns) / 2 * plane.pixel_mm[1],
    )
    first = plane.corner_mm + plane.axes[0] * right + plane.axes[1] * down
    step = plane.normal * gap * (1.0 if float(plane.normal @ normal) > 0 else -1.0)
    return tuple(
        {
            **said,
            "Rows": [str(rows)],
            "Columns": [str(columns)],
            "ImagePositionPatient": [repr(float(mm)) for mm in first + step * tile],
            "MosaicTile": [str(tile), str(tiles)],
        }
        for tile in range(count)
    )


def _normal(path: Path) -> NDArray[np.float64] | None:
    """The direction in which slices follow one another, (x, y, z); None where nothing says so."""
    with warnings.catch_warnings():
        # nibabel calls its DICOM readers experimental when they are imported; of them, this reads one vector.
        warnings.simplefilter("ignore")
        try:
            from nibabel.nicom import csareader

            reader: Any = csareader
            header = dcmread(path, stop_before_pixels=True)
            found = reader.get_slice_normal(reader.get_csa_header(header, "image"))
        except Exception:  # noqa: BLE001 - nibabel raises whatever a damaged private header makes it raise
            return None
    return None if found is None else np.asarray(found, dtype=np.float64)
