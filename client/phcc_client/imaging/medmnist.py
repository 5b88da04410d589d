"""A MedMNIST 3-D file (Yang et al. 2023): small volumes in one ``.npz``, in the parts that it gives.

Only ``train`` and ``val`` are read for a study; the test part stays untouched until somebody names it for
prediction. MedMNIST does not tell patients apart, so every volume counts as a patient of its own: the two
glands of one person can stand on two sides of a *further* split.
"""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.lib.npyio import NpzFile
from numpy.typing import NDArray

from phcc_client.imaging.case import GivenSplit, PhaseImage, RawCase, Reading
from phcc_model.cases import UNKNOWN_LABEL
from phcc_model.config import DataSettings
from phcc_model.errors import DatasetError

_PARTS: tuple[tuple[str, GivenSplit], ...] = (("train", "train"), ("val", "validation"))


def read_medmnist(path: Path, settings: DataSettings) -> Reading:
    """Read the training and validation parts of a MedMNIST file.

    Raises:
        DatasetError: the file is missing, damaged, not of MedMNIST's form, or the study asks for another
            phase than
            ``image``.
    """
    if settings.phases != ("image",):
        raise DatasetError(
            "has one image per case and no phases", where=str(path), remedy="Set data.phases: [image]"
        )
    cases: list[RawCase] = []
    with _opened(path) as arrays:
        for part, split in _PARTS:
            images = _images(arrays, f"{part}_images", path)
            labels = _labels(arrays, f"{part}_labels", len(images), path)
            cases += [
                _case(f"{part}-{i:05d}", image, label=int(label), split=split)
                for i, (image, label) in enumerate(zip(images, labels, strict=True))
            ]
    return Reading(tuple(cases))


def read_array(path: Path, name: str) -> Reading:
    """Read one array of a MedMNIST file, without labels: what a prediction is made for.

    Args:
        path: the ``.npz`` file.
        name: of an array of images, for example ``test_images``.

    Returns:
        Unlabelled cases in the array's order, named ``<name>-00000`` and so on.

    Raises:
        DatasetError: the file is missing or damaged, or has no such array of volumes.
    """
    with _opened(path) as arrays:
        images = _images(arrays, name, path)
    return Reading(tuple(_case(f"{name}-{i:05d}", image) for i, image in enumerate(images)))


def _case(
    name: str, image_dhw: NDArray[np.uint8], *, label: int = UNKNOWN_LABEL, split: GivenSplit | None = None
) -> RawCase:
    image = PhaseImage("image", None, array_dhw=image_dhw, fitted=True)
    return RawCase(name, name, {"image": image}, label=label, given_split=split)


@contextmanager
def _opened(path: Path) -> Iterator[NpzFile]:
    again = "Download the file again from its source"
    try:
        # numpy leaves a file open that it opened and could not read.
        with path.open("rb") as file:
            arrays = np.load(file, allow_pickle=False)
            if not isinstance(arrays, NpzFile):
                raise DatasetError("is a single array, not an .npz file", where=str(path), remedy=again)
            with arrays:
                yield arrays
    except FileNotFoundError as error:
        raise DatasetError("there is no such file", where=str(path), remedy="Check data.path") from error
    except IsADirectoryError as error:
        raise DatasetError("is a folder, not a file", where=str(path), remedy="Give the .npz file") from error
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise DatasetError(f"is no readable .npz file ({error})", where=str(path), remedy=again) from error


def _images(arrays: NpzFile, name: str, path: Path) -> NDArray[np.uint8]:
    images = _array(arrays, name, path)
    if images.ndim != 4 or images.dtype != np.uint8 or not images.size:
        raise DatasetError(
            f"{name} is {images.dtype} of shape {images.shape}, not uint8 of [n, d, h, w]",
            where=str(path),
            remedy="Give a MedMNIST file of 3-D volumes in one channel",
        )
    return images.astype(np.uint8, copy=False)


def _labels(arrays: NpzFile, name: str, n: int, path: Path) -> NDArray[np.int8]:
    labels = _array(arrays, name, path)
    if (
        labels.shape not in ((n, 1), (n,))
        or labels.dtype.kind not in "ui"
        or not np.isin(labels, (0, 1)).all()
    ):
        raise DatasetError(
            f"{name} is {labels.dtype} of shape {labels.shape}, not a label of 0 or 1 for each of {n} images",
            where=str(path),
            remedy="Give a MedMNIST file with two classes",
        )
    return labels.reshape(n).astype(np.int8)


def _array(arrays: NpzFile, name: str, path: Path) -> NDArray[np.generic]:
    if name not in arrays.files:
        raise DatasetError(
            f"has no array {name}; it holds {', '.join(arrays.files)}",
            where=str(path),
            remedy="Give a MedMNIST file, or name one of its arrays",
        )
    array: NDArray[np.generic] = arrays[name]
    return array
