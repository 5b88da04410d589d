"""``phcc-simulate rats`` and ``hippocampus-cases``: studies on real data that lie on this machine."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from phcc_simulation.proof.cli import whole_numbers


def register(app: typer.Typer) -> None:
    """Add the commands to a program."""

    @app.command("rats")
    def rats_command(
        data: Annotated[
            list[Path], typer.Argument(help="Folders of TRISTAN rats' curves (.dmr.zip, at any depth).")
        ],
        out: Annotated[
            Path, typer.Option("--out", help="Folder to write rats.json, rats.md and scores.csv to.")
        ],
        seeds: Annotated[str, typer.Option("--seeds", help="Whole numbers, with commas.")] = "0,1,2,3,4",
        centre: Annotated[
            list[str] | None,
            typer.Option("--centre", help="Hold out this centre only; repeatable. Default: each in turn."),
        ] = None,
    ) -> None:
        """The temporal head on rats' liver curves, one centre left out, beside logistic regression.

        Example: phcc-simulate rats ../shared/data/tristan_rat_liver_dce --out runs/rats
        """
        from phcc_simulation.real.rats_command import run_rats

        folders = [folder.expanduser().resolve() for folder in data]
        run_rats(folders, out.expanduser().resolve(), whole_numbers(seeds), centre or [])

    @app.command("hippocampus-cases")
    def hippocampus_command(
        data: Annotated[
            Path, typer.Argument(help="Folder of the Decathlon's hippocampi: images and labels.")
        ],
        out: Annotated[Path, typer.Option("--out", help="Folder to write images and cases.csv to.")],
        test: Annotated[
            float, typer.Option("--test", min=0.05, max=0.9, help="Share of each centre that is held out.")
        ] = 0.33,
        seed: Annotated[int, typer.Option("--seed", min=0, help="Of who is held out.")] = 0,
    ) -> None:
        """Hippocampi as a data set for configs/hippocampus.yaml: centres by intensity scale, large or small.

        Example: phcc-simulate hippocampus-cases ../shared/data/msd_hippocampus --out data/hippocampus
        """
        from phcc_simulation.real.hippocampus_command import write_hippocampus

        write_hippocampus(data.expanduser().resolve(), out.expanduser().resolve(), test, seed)
