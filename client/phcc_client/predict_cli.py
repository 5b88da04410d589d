"""``phcc-client predict``: one patient scored by a model package, for research."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def register(app: typer.Typer) -> None:
    """Add the command to ``phcc-client``."""
    app.command()(predict)


def predict(
    package: Annotated[Path, typer.Argument(help="The model's folder, as phcc-server export made it.")],
    source: Annotated[
        Path,
        typer.Argument(
            metavar="PATIENT",
            help="Folder of DICOM, NIfTI with cases.csv, an ingested site, LLD-MMRI; or a prepared crop.",
        ),
    ],
    out: Annotated[Path, typer.Option("--out", metavar="FOLDER", help="New or empty folder to write.")],
    patient: Annotated[
        str | None, typer.Option("--patient", help="Which one, where there are several.")
    ] = None,
    case: Annotated[str | None, typer.Option("--case", help="Which case of a cases.csv.")] = None,
    lesion: Annotated[
        int | None, typer.Option("--lesion", min=1, help="Which lesion of a DICOM patient, from 1.")
    ] = None,
    examination: Annotated[
        str, typer.Option("--examination", help="Date (2024-05-31) or StudyInstanceUID, if several.")
    ] = "",
    mask: Annotated[
        Path | None, typer.Option("--mask", metavar="FILE", help="The lesion: NIfTI or DICOM SEG.")
    ] = None,
    box: Annotated[
        str | None,
        typer.Option("--box", metavar="Z0:Z1,Y0:Y1,X0:X1", help="The lesion: slices, rows, columns."),
    ] = None,
    drawn_on: Annotated[
        str | None, typer.Option("--drawn-on", metavar="PHASE", help="The phase of --mask or --box.")
    ] = None,
    phases: Annotated[
        Path | None, typer.Option("--phases", metavar="FILE", help="phases.yaml: your rules for series.")
    ] = None,
    registration: Annotated[
        str, typer.Option("--registration", help="Of DICOM phases: rigid, off or deformable.")
    ] = "rigid",
    dicom: Annotated[
        bool, typer.Option("--dicom/--no-dicom", help="Also write DICOM objects for the PACS.")
    ] = True,
) -> None:
    """RESEARCH USE ONLY: score one patient's lesion; heat maps, page, PDF, JSON and DICOM for the PACS.

    Example: phcc-client predict package /pacs/export/0815 --out prediction

    What is written names the patient, as the input does: it stays in the hospital.
    """
    from phcc_client.prediction import commands
    from phcc_client.prediction.ask import Ask, box_of, phase_of, registration_of

    ask = Ask(
        source,
        patient=patient,
        case=case,
        lesion=lesion,
        examination=examination,
        mask=mask,
        box=None if box is None else box_of(box),
        drawn_on=None if drawn_on is None else phase_of(drawn_on),
        phases=phases,
        registration=registration_of(registration),
    )
    commands.predict(package, ask, out, dicom=dicom)
