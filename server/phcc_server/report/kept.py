"""What a simulated run keeps of images for its report, and the pictures drawn from it.

::

    RUN/pictures/reconstructions/<arm>-<round>.safetensors   a few cases as an autoencoder filled them in
    RUN/pictures/mistakes.safetensors                        the middle slice of the surest mistakes
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from phcc_model.errors import StorageError
from phcc_server.report.photographs import Filled, Photograph, mistake, reconstruction
from phcc_server.report.schema import Summary
from phcc_server.report.slices import Slices, load_slices
from phcc_server.report.wording import mistake_in_words

PICTURES = "pictures"
RECONSTRUCTIONS = "reconstructions"


def reconstruction_file(run: Path, arm: str, round_index: int) -> Path:
    """Where an arm's reconstructions after a round are kept; `round_index` from 0."""
    plain = re.sub(r"[^A-Za-z0-9_-]+", "-", arm).strip("-")
    name = plain if plain == arm else f"{plain}-{hashlib.sha256(arm.encode()).hexdigest()[:8]}"
    return run / PICTURES / RECONSTRUCTIONS / f"{name}-{round_index:04d}.safetensors"


def mistakes_file(run: Path) -> Path:
    """Where the slices of the surest mistakes are kept."""
    return run / PICTURES / "mistakes.safetensors"


def kept_photographs(run: Path, summary: Summary) -> list[Photograph]:
    """All pictures of voxels that a run's folder has something for, in the order of the page.

    Raises:
        StorageError: what is kept is damaged.
    """
    files = sorted((run / PICTURES / RECONSTRUCTIONS).glob("*.safetensors"))
    kept = [(file, one) for file in files for one in load_slices(file)]
    try:
        filled = [
            photograph
            for arm in dict.fromkeys(record.arm for record in summary.rounds)
            for photograph in _reconstructions(arm, [one for _, one in kept if one.said["arm"] == arm])
        ]
        return [*filled, *_mistakes(load_slices(mistakes_file(run)), summary)]
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise StorageError(
            "the slices kept for the report lack something",
            where=str(run / PICTURES),
            remedy="Remove the folder: the report is then made without these pictures",
        ) from error


def _reconstructions(arm: str, kept: Sequence[Slices]) -> Iterator[Photograph]:
    """One picture per case, its rounds below one another."""
    for name in dict.fromkeys((one.said["centre"], one.said["case"]) for one in kept):
        rounds = sorted(
            (one for one in kept if (one.said["centre"], one.said["case"]) == name),
            key=lambda one: int(one.said["round"]),
        )
        first = rounds[0]
        yield reconstruction(
            arm,
            first.arrays["target"],
            first.arrays["visible"].astype(bool),
            [
                Filled(
                    f"round {one.said['round'] + 1}",
                    one.arrays["prediction"],
                    one.said["agreement"],
                    one.said["spread"],
                )
                for one in rounds
            ],
            first.said["phases"],
            present_p=first.said["present"],
            case=f"{name[1]} ({name[0]})",
            objective=first.said["objective"],
            aspect=first.said["aspect"],
        )


def _mistakes(kept: Sequence[Slices], summary: Summary) -> Iterator[Photograph]:
    by_case = {(one.said["centre"], one.said["case"]): one for one in kept}
    for failure in summary.failures:
        one = by_case.get((failure.centre, failure.case))
        if one is not None:
            yield mistake(
                failure.case,
                failure.centre,
                mistake_in_words(failure),
                one.arrays["slice"],
                one.arrays["lesion"].astype(bool),
                one.said["phases"],
                present_p=one.said["present"],
                aspect=one.said["aspect"],
            )
