"""``phcc-client mistakes``: a hospital's own patients whom a tested model was surest about, and wrong."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from phcc_client.options import DEFAULT_HOME, HomeFolder

if TYPE_CHECKING:
    from phcc_client.home import Home
    from phcc_client.kept_scores import KeptScores
    from phcc_client.mistakes import Look
    from phcc_client.mistakes_page import About
    from phcc_client.policy import KnownStudy


def register(app: typer.Typer) -> None:
    """Add the command to ``phcc-client``."""
    app.command()(mistakes)


def mistakes(
    study: Annotated[str, typer.Argument(help="Name, or beginning of a digest.")],
    home: HomeFolder = DEFAULT_HOME,
    arm: Annotated[str, typer.Option("--arm", help="Arm of the study.")] = "full",
    most: Annotated[int, typer.Option("--most", min=1, help="So many mistakes.")] = 12,
    threshold: Annotated[
        float | None,
        typer.Option("--threshold", min=0.0, max=1.0, help="Positive from here on; default 0.5."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="FILE.html", help="Also a page with pictures.")
    ] = None,
) -> None:
    """RESEARCH USE ONLY: this hospital's test patients whom a finished arm's model was surest about, and wrong.

    Example: phcc-client mistakes hospital --arm full --out mistakes.html

    Scores and page name patients by their pseudonyms: they stay in the hospital. The threshold that the
    study froze is in the coordinator's report; give it with --threshold.
    """
    from phcc_client.home import Home
    from phcc_client.kept_scores import KeptScores
    from phcc_client.mistakes import HALF, look
    from phcc_client.mistakes_page import About
    from phcc_model.arms import arm_study
    from phcc_model.errors import PolicyError

    opened = Home.open(home)
    kept = KeptScores(opened.scores)
    known = _tested(opened, kept, study)
    scored = kept.read(known.digest, arm)
    if known.study is None:
        raise PolicyError(
            "only its card is here, not the study itself",
            where=f"study {known.name}",
            remedy="Ask the coordinator for the study's file, and take note of it: phcc-client show FILE",
        )
    about = About(
        opened.settings.hospital,
        known.study,
        arm_study(known.study, arm),
        known.digest,
        arm,
        threshold is not None,
    )
    seen = look(scored, HALF if threshold is None else threshold, most)
    _tell(about, seen)
    if out is not None:
        _write(out, opened.site, about, seen)


def _tested(home: Home, kept: KeptScores, word: str) -> KnownStudy:
    """The study that is meant; of several variants with one name, the one that was tested here."""
    from phcc_client.policy import SHOWN, Policy
    from phcc_model.errors import PolicyError

    found = Policy(home.folder).find(word)
    tested = [known for known in found if kept.arms(known.digest)] or list(found)
    if len(tested) > 1:
        digests = ", ".join(known.digest[:SHOWN] for known in tested)
        raise PolicyError(
            f"{len(tested)} variants of the study have this name ({digests})",
            where=" ".join(word.split())[:80],
            remedy="Name one by its digest",
        )
    return tested[0]


def _tell(about: About, seen: Look) -> None:
    from rich.console import Console
    from rich.table import Table

    from phcc_client.mistakes import auc_line, counts_line, ranking_line
    from phcc_client.mistakes_page import NOTICE, TESTED
    from phcc_client.policy import SHOWN
    from phcc_model.command_line import plain

    console = Console(soft_wrap=True, highlight=False, emoji=False)
    console.print(f"[bold red]{NOTICE}.[/]")
    console.print(
        f"{plain(about.asked.name)} {about.digest[:SHOWN]}, {plain(about.arm)}, round {seen.round + 1}, weights "
        f"{seen.weights[:SHOWN]}"
    )
    console.print(about.kind + counts_line(seen))
    console.print(about.kind + auc_line(seen))
    for warning in seen.auc.warnings:
        console.print(warning)
    if seen.mistakes:
        table = Table(
            "rank",
            "patient",
            "case",
            "truth",
            f"{about.kind}probability",
            f"{about.kind}how sure",
            box=None,
            pad_edge=False,
        )
        for one in seen.mistakes:
            table.add_row(
                str(one.rank),
                plain(one.scored.patient),
                plain(one.scored.case),
                one.truth,
                f"{one.scored.score:.3f}",
                f"{one.sureness:.0%}",
            )
        console.print(table)
    console.print(ranking_line(seen, about.named))
    console.print(TESTED)


def _write(out: Path, site: Path, about: About, seen: Look) -> None:
    from rich.console import Console

    from phcc_client.mistakes_page import pictures, render_page
    from phcc_model.command_line import plain
    from phcc_model.storage import write_atomically

    write_atomically(out, render_page(about, seen, pictures(site, about, seen.mistakes)))
    Console(soft_wrap=True, highlight=False, emoji=False).print(
        f"page: {plain(str(out))}; it names patients by their pseudonyms and stays here"
    )
