"""Names, entries and safe writing of the phantom's files: LLD-MMRI's raw layout, and the truth beside it.

images/<patient>/<studyUID>/<seriesUID>.nii.gz      one per phase
labels/Annotation.json                              spacing, origin and the lesion's box of every phase
clinical.csv                                        patient, centre, scanner, AFP, label
truth/<patient>.nii.gz, .json; truth/signs.csv      what was planted: never shown to a model
phantom.json                                        settings, version, digest, best possible AUC
"""

from __future__ import annotations

import csv
import errno
import gzip
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import SimpleITK
from numpy.typing import NDArray

from phcc_model.config import Phase
from phcc_model.errors import StorageError
from phcc_model.seeds import derive_seed

from .patient import Box, PhantomPatient

LLD_PHASE: Final[dict[Phase, str]] = {
    "pre-contrast": "C-pre",
    "arterial": "C+A",
    "portal-venous": "C+V",
    "delayed": "C+Delay",
}
LLD_CATEGORIES: Final = {
    "Hepatic_hemangioma": 0,
    "Intrahepatic_cholangiocarcinoma": 1,
    "Hepatic_abscess": 2,
    "Hepatic_metastasis": 3,
    "Hepatic_cyst": 4,
    "FOCAL_NODULAR_HYPERPLASIA": 5,
    "Hepatocellular_carcinoma": 6,
}
_HEADER_BYTES = 352  # of a NIfTI-1 file before its voxels
_GZIP_LEVEL = 1  # noise hardly compresses further


def series_path(patient: str, study_uid: str, series_uid: str) -> str:
    """A phase's file below the root."""
    return f"images/{patient}/{study_uid}/{series_uid}.nii.gz"


def uid(seed: int, *names: str) -> str:
    """A valid DICOM UID below 2.25 (the arc for integers), a function of the seed and the names."""
    return f"2.25.{derive_seed(seed, 'phantom', 'uid', *names)}"


def annotation_entry(patient: PhantomPatient, phase: Phase, seed: int) -> dict[str, Any]:
    """One phase's entry of ``Annotation_info[patient]``; z_max is inclusive, x_max and y_max are not."""
    dz, dy, dx = patient.profile.spacing_zyx
    return {
        "studyUID": uid(seed, patient.patient),
        "seriesUID": uid(seed, patient.patient, phase),
        "phase": LLD_PHASE[phase],
        "pixel_spacing": [dy, dx],
        "slice_thickness": dz,
        "slice_spacing": dz,
        "origin": list(patient.origin_xyz),
        "annotation": {
            "num_targets": 1,
            "lesion": {
                "0": {
                    "category": LLD_CATEGORIES["Hepatocellular_carcinoma"],
                    "bbox": {"3D_box": _lld_box(patient.images[phase].box)},
                }
            },
        },
    }


def _lld_box(box: Box) -> dict[str, int]:
    (z0, y0, x0), (z1, y1, x1) = box.start_zyx, box.stop_zyx
    return {"x_min": x0, "y_min": y0, "z_min": z0, "x_max": x1, "y_max": y1, "z_max": z1 - 1}


def write_volume(path: Path, volume_zyx: NDArray[Any], patient: PhantomPatient) -> None:
    """Write a NIfTI file, whole or not at all, identical for identical content.

    The NIfTI library reports no error when the disk is full, so it writes uncompressed, the length is
    checked, and Python compresses.

    Raises:
        StorageError: the disk is full or not writable.
    """
    image: Any = SimpleITK.GetImageFromArray(volume_zyx)
    dz, dy, dx = patient.profile.spacing_zyx
    image.SetSpacing((dx, dy, dz))
    image.SetOrigin(patient.origin_xyz)
    plain = path.with_name(f".{path.name.removesuffix('.gz')}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        SimpleITK.WriteImage(image, str(plain))
        content = plain.read_bytes()
        if len(content) != _HEADER_BYTES + volume_zyx.nbytes:
            raise OSError(errno.ENOSPC, "short write")
    except (OSError, RuntimeError) as error:
        raise storage_error(path, error) from error
    finally:
        plain.unlink(missing_ok=True)
    write_bytes(path, gzip.compress(content, _GZIP_LEVEL, mtime=0))


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file beside its place and move it there: whole or not at all.

    Raises:
        StorageError: the disk is full or not writable.
    """
    partial = path.with_name(f".{path.name}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.write_bytes(content)
        partial.replace(path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise storage_error(path, error) from error


def storage_error(path: Path, error: OSError | RuntimeError) -> StorageError:
    """What went wrong with a file, for a person."""
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        remedy = "free some space and run again; what was written is kept"
        return StorageError("no space is left on the disk", where=str(path), remedy=remedy)
    reason = (error.strerror if isinstance(error, OSError) else None) or str(error).strip().splitlines()[-1]
    return StorageError(
        f"cannot be written ({reason})", where=str(path), remedy="check the folder and its permissions"
    )


def json_bytes(content: object, indent: int | None = None) -> bytes:
    """JSON text with a final newline; NaN is refused."""
    return (json.dumps(content, indent=indent, allow_nan=False) + "\n").encode()


def csv_bytes(rows: Sequence[Mapping[str, object]], columns: Sequence[str]) -> bytes:
    """CSV text with a header line."""
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode()


def voxel_volume_ml(patient: PhantomPatient) -> float:
    """Volume of one voxel in mL."""
    return float(np.prod(patient.profile.spacing_zyx)) / 1000.0
