"""``phcc-client ingest`` and ``phcc-client check``: from a hospital's files to a folder to train on."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from phcc_model.command_line import EXIT_ERROR


def register(app: typer.Typer) -> None:
    """Add the commands to ``phcc-client``."""
    app.command()(ingest)
    app.command()(check)


def ingest(
    source: Annotated[
        Path, typer.Argument(help="Folder as exported: DICOM, NIfTI with cases.csv, or LLD-MMRI.")
    ],
    into: Annotated[Path, typer.Option("--into", metavar="SITE", help="The site's folder to make.")],
    patients: Annotated[
        Path | None,
        typer.Option("--patients", metavar="TABLE", help="CSV or Excel: patient, label, lesion, AFP."),
    ] = None,
    phases: Annotated[
        Path | None,
        typer.Option(
            "--phases", metavar="FILE", help="Your rules for series; default: SITE.private/phases.yaml."
        ),
    ] = None,
    registration: Annotated[
        str, typer.Option("--registration", help="rigid, off or deformable: phases onto the lesion's phase.")
    ] = "rigid",
    bias_field: Annotated[
        bool, typer.Option("--bias-field", help="Correct the bias field (N4): seconds more a phase.")
    ] = False,
    require: Annotated[
        str, typer.Option("--require", help="A patient without one of these phases is set aside.")
    ] = "pre-contrast,arterial,portal-venous",
    label: Annotated[
        str, typer.Option("--label", help="The table's column that holds the label.")
    ] = "proliferative",
    jobs: Annotated[
        int | None, typer.Option("--jobs", "-j", min=1, help="Patients at a time; default: one a core.")
    ] = None,
) -> None:
    """Make a site's folder from a hospital's files: phases found, aligned, de-identified, checked.

    Example: phcc-client ingest /pacs/export --patients patients.xlsx --into /srv/phcc/site

    Stop it at any time: the same command goes on from there. Names, the key of the pseudonyms and your
    phases.yaml lie in SITE.private, beside SITE; keep that folder, and never hand it on.
    """
    from phcc_client.ingest import commands

    if not commands.ingest(
        source,
        into,
        commands.settings_of(registration, bias_field=bias_field, require=require, label=label),
        patients=patients,
        phases=phases,
        jobs=jobs,
    ):
        raise typer.Exit(EXIT_ERROR)


def check(
    site: Annotated[Path, typer.Argument(help="A folder that phcc-client ingest made.")],
    study: Annotated[
        Path | None,
        typer.Option("--study", metavar="FILE", help="Also say who could be prepared for this study."),
    ] = None,
) -> None:
    """Check a site's folder: every patient from found to used, files, duplicates; writes check.html.

    Example: phcc-client check /srv/phcc/site
    """
    from phcc_client.ingest import commands

    if not commands.check(site, study):
        raise typer.Exit(EXIT_ERROR)
