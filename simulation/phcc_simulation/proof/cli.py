"""``phcc-simulate seeds``, ``combine``, ``compare``, ``claims``, ``taking-part``: a study over seeds."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer


def register(app: typer.Typer) -> None:
    """Add the three commands to a program."""

    @app.command("seeds")
    def seeds_command(
        study: Annotated[str, typer.Argument(help="A study file, or a shipped study by name.")],
        out: Annotated[
            Path, typer.Option("--out", help="Folder of all seeds; a second start goes on where it stopped.")
        ],
        seeds: Annotated[str, typer.Option("--seeds", help="Whole numbers, with commas.")] = "0,1,2,3,4",
        arm: Annotated[
            list[str] | None,
            typer.Option("--arm", help="Run this arm in place of the study's; repeatable."),
        ] = None,
        overrides: Annotated[
            list[str] | None,
            typer.Option("--set", metavar="KEY=VALUE", help="Override a key of the study; repeatable."),
        ] = None,
        side_by_side: Annotated[
            int | None, typer.Option("--side-by-side", min=1, help="Seeds at a time; default: one a core.")
        ] = None,
        device: Annotated[str, typer.Option("--device", help="cpu, cuda, cuda:1...")] = "cpu",
    ) -> None:
        """Run a study once for each seed (other patients, other first weights), side by side; then combine.

        Example: phcc-simulate seeds arms --out runs/arms --seeds 0,1,2,3,4 --arm full --arm no-pretraining
        """
        from phcc_simulation.proof.commands import run_seeds

        at_once = side_by_side or os.cpu_count() or 1
        run_seeds(study, out, whole_numbers(seeds), arm or [], overrides or [], at_once, device)

    @app.command("combine")
    def combine_command(
        out: Annotated[Path, typer.Argument(help="Folder of finished seeds: seed-0, seed-1...")],
    ) -> None:
        """Judge all finished seeds of a study together: claims, tables and pictures; nothing is trained.

        A seed's arms may lie in several folders, such as seed-0 and seed-0-more.

        Example: phcc-simulate combine runs/arms
        """
        from phcc_simulation.proof.commands import combine_seeds

        combine_seeds(out.expanduser().resolve())

    @app.command("compare")
    def compare_command(
        conditions: Annotated[
            list[Path], typer.Argument(help="Folders of seeds of one study, each under another condition.")
        ],
        out: Annotated[Path, typer.Option("--out", help="Folder of the page and its picture.")],
    ) -> None:
        """Hold one study's arms side by side under several conditions, such as kinds of unlike centres.

        Example: phcc-simulate compare runs/federation/scanners runs/federation/labels --out runs/federation
        """
        from phcc_simulation.proof.commands import compare_conditions

        compare_conditions([one.expanduser().resolve() for one in conditions], out.expanduser().resolve())


def register_claims(app: typer.Typer) -> None:
    """Add the command that holds studies side by side."""

    @app.command("claims")
    def claims_command(
        studies: Annotated[list[Path], typer.Argument(help="Folders of studies that were combined.")],
        out: Annotated[Path, typer.Option("--out", help="The page to write, Markdown.")],
    ) -> None:
        """Put what several studies say of every claim into one table; nothing is worked out anew.

        Example: phcc-simulate claims runs/study runs/phases --out runs/claims.md
        """
        from phcc_simulation.proof.commands import write_claims

        write_claims([one.expanduser().resolve() for one in studies], out.expanduser().resolve())


def register_taking_part(app: typer.Typer) -> None:
    """Add the command that says what a centre gains by taking part."""

    @app.command("taking-part")
    def taking_part_command(
        whole: Annotated[Path, typer.Argument(help="Folder of seeds in which every centre takes part.")],
        without: Annotated[
            list[Path], typer.Argument(help="Folders of the same seeds, each with one centre left out.")
        ],
        out: Annotated[Path, typer.Option("--out", help="Folder of the page and its picture.")],
    ) -> None:
        """Say what a centre gains by taking part: on its own test patients, with it, without it, by itself.

        The seeds without a centre are run with --set data.centres.leave_out=CENTRE and the arm full.

        Example: phcc-simulate taking-part runs/study runs/without-C1 runs/without-C2 --out runs/taking-part
        """
        from phcc_simulation.proof.taking_part_command import show_taking_part

        folders = [one.expanduser().resolve() for one in without]
        show_taking_part(whole.expanduser().resolve(), folders, out.expanduser().resolve())


def whole_numbers(text: str, option: str = "--seeds") -> list[int]:
    """What ``--seeds 0,1,2`` names."""
    words = [word.strip() for word in text.split(",")]
    if not all(word.isdecimal() for word in words):
        raise typer.BadParameter(f"{text!r} is not a list of whole numbers such as 0,1,2", param_hint=option)
    return [int(word) for word in words]
