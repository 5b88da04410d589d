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

from phcc_model.config import PhantomSettings, Phase
from phcc_model.errors import StorageError
from phcc_model.seeds import derive_seed

from .patient import PHANTOM_PHASES, Box, PhantomPatient, make_patient, patient_name
from .scanner import ScannerProfile
from .signs import log_likelihood_ratio

Task = tuple[ScannerProfile, int]
"""A centre and the number of one of its patients."""
Record = dict[str, Any]
"""What is written of one patient: its files, annotations, clinical data and signs."""

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
        remedy = "Free some space and run again; what was written is kept"
        return StorageError("no space is left on the disk", where=str(path), remedy=remedy)
    reason = (error.strerror if isinstance(error, OSError) else None) or str(error).strip().splitlines()[-1]
    return StorageError(
        f"cannot be written ({reason})", where=str(path), remedy="Check the folder and its permissions"
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


def record_path(root: Path, task: Task) -> Path:
    """Where a patient's record lies; it is written last, after the patient's images."""
    profile, number = task
    return root / "truth" / f"{patient_name(profile.centre, number)}.json"


def write_patient(root: Path, settings: PhantomSettings, task: Task) -> None:
    """Make one patient and write its images, its truth and, last, its record.

    Raises:
        StorageError: the disk is full or not writable.
    """
    profile, number = task
    patient = make_patient(settings, profile, number)
    entries = [annotation_entry(patient, phase, settings.seed) for phase in patient.images]
    files = [series_path(patient.patient, entry["studyUID"], entry["seriesUID"]) for entry in entries]
    for name, image in zip(files, patient.images.values(), strict=True):
        write_volume(root / name, image.volume_zyx, patient)
    truth = f"truth/{patient.patient}.nii.gz"
    write_volume(root / truth, patient.labels_zyx, patient)
    voxel_ml = float(np.prod(profile.spacing_zyx)) / 1000.0
    signs, who = patient.signs, {"patient": patient.patient, "centre": profile.centre}
    record: Record = {
        "files": [*files, truth],
        "annotation": entries,
        "clinical": {
            **who,
            "scanner": profile.scanner,
            "afp_ng_ml": signs.afp_ng_ml,
            "proliferative": signs.proliferative,
        },
        "signs": {
            **who,
            **signs.as_row(),
            "kinetics_only": int(signs.kinetics_only),
            "radius_mm": round(patient.anatomy.radius_mm, 3),
            "volume_ml": round(float((patient.labels_zyx > 0).sum()) * voxel_ml, 3),
            "log_likelihood_ratio": log_likelihood_ratio(settings, signs),
            "missing_phases": " ".join(phase for phase in PHANTOM_PHASES if phase not in patient.images),
        },
    }
    write_bytes(record_path(root, task), json_bytes(record))
