"""The command ``phcc-server export``: a finished model leaves the system."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from phcc_server.options import DEFAULT_INSTANCE, InstanceFolder


def register(app: typer.Typer) -> None:
    """Add the command to ``phcc-server``."""
    app.command("export")(export_command)


def export_command(
    run: Annotated[
        str, typer.Argument(metavar="RUN", help="A run's name, or the folder of one, simulated or real.")
    ],
    to: Annotated[Path, typer.Option("--to", metavar="FOLDER", help="The package; new, or empty.")],
    arm: Annotated[str, typer.Option("--arm", help="Of the study; it must have finished.")] = "full",
    plain: Annotated[bool, typer.Option("--plain", help="Without ONNX and MONAI.")] = False,
    instance: InstanceFolder = DEFAULT_INSTANCE,
) -> None:
    """Write a finished model as a package: weights, threshold, model card, digests, ONNX, a MONAI bundle.

    Example: phcc-server export demo-1 --to package
    """
    from phcc_server.export import export_run
    from phcc_server.instance import Instance
    from phcc_server.options import console
    from phcc_server.run_folder import RunFolder

    folder = Path(run)
    if not folder.is_dir():
        folder = RunFolder.open(Instance.open(instance).runs, run).folder
    package = export_run(folder, arm, to, plain=plain)
    console.print(f"{to}: {package.study.name}, arm {package.arm}, threshold {package.threshold:.3f}")
    recalibrated = "fitted" if package.calibration else f"none. {package.description.calibration_note}"
    console.print(f"Recalibration: {recalibrated}")
    console.print(f"Digest, to be published with it: {package.digest}")
    console.print("Research use only.")
