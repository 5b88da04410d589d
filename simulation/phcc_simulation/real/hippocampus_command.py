"""What ``phcc-simulate hippocampus-cases`` does: from the Decathlon's folder to one that a study reads."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from phcc_model.statistics import AucEstimate, auc_interval
from phcc_model.storage import storage_error, write_atomically
from phcc_server.report.schema import Limits, Part
from phcc_server.report.wording import estimate
from phcc_simulation.real.hippocampus import (
    BOX_ZYX,
    Hippocampus,
    counts_of,
    hold_out,
    read_hippocampi,
    table_of,
    training_median_mm3,
)

TABLE, FACTS, IMAGES = "cases.csv", "hippocampus.json", "images"

console = Console(soft_wrap=True, highlight=False, emoji=False)


class HippocampusFacts(Part):
    """What was prepared.

    Attributes:
        table: SHA-256 of ``cases.csv``, which holds box, label and side of every case.
        median_mm3: of the training side's masks: above it a hippocampus is large.
        counts: by centre and side.
        size_auc: on the test, of the number of voxels of the expert's crop: what a network that sees an image's
            border could know without looking at the hippocampus.
        aside: file and reason.
    """

    table: str
    seed: int
    test_share: float
    median_mm3: float
    box_zyx: tuple[int, int, int]
    counts: dict[str, dict[str, int]]
    size_auc: float | None
    size_ci: Limits
    aside: tuple[tuple[str, str], ...]


def write_hippocampus(data: Path, out: Path, share: float, seed: int) -> HippocampusFacts:
    """Write the table and the images, as they are, and say what there is.

    Raises:
        PhccError: there are no images, or the disk is full.
    """
    found, aside = read_hippocampi(data)
    cases = hold_out(found, share, seed)
    median = training_median_mm3(cases)
    table = table_of(cases, median)
    _copy([one.image for one in cases], out / IMAGES)
    area = size_auc(cases, median)
    counts = counts_of(cases, median)
    facts = HippocampusFacts(
        table=hashlib.sha256(table.encode()).hexdigest(),
        seed=seed,
        test_share=share,
        median_mm3=median,
        box_zyx=BOX_ZYX,
        counts={f"{centre}, {side}": kinds for (centre, side), kinds in counts.items()},
        size_auc=area.auc,
        size_ci=None if area.low is None or area.high is None else (area.low, area.high),
        aside=tuple(aside),
    )
    write_atomically(out / FACTS, facts.model_dump_json(indent=2) + "\n")
    write_atomically(out / TABLE, table)
    _tell(facts, out)
    return facts


def size_auc(cases: Sequence[Hippocampus], median_mm3: float) -> AucEstimate:
    """How well the size of the expert's crop alone tells the label, on the test."""
    test = [(one.voxels, one.volume_mm3) for one in cases if one.test and one.volume_mm3 is not None]
    return auc_interval([int(volume > median_mm3) for _, volume in test], [float(size) for size, _ in test])


def _copy(images: Sequence[Path], folder: Path) -> None:
    """Copies, since a data set may not lead out of its own folder."""
    for image in images:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(image, folder / image.name)
        except OSError as error:
            raise storage_error(folder / image.name, error) from error


def _tell(facts: HippocampusFacts, out: Path) -> None:
    table = Table("centre, side", "large", "small", "no mask", title="hippocampi", title_justify="left")
    for name, kinds in facts.counts.items():
        table.add_row(name, *(str(kinds[kind]) for kind in ("large", "small", "no mask")))
    console.print(table)
    for name, reason in facts.aside:
        console.print(Text(f"set aside: {name}: {reason}"))
    console.print(Text(f"large: more than {facts.median_mm3:.0f} mm3, the median of the training side"))
    console.print(
        Text(
            "AUC of the size of the expert's crop, on the test, which no network is shown: "
            f"{estimate(facts.size_auc, facts.size_ci, 3)}"
        )
    )
    console.print(f"written to {out}: --set data.path={out}", markup=False)
