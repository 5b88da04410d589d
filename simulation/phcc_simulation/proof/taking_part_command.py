"""``phcc-simulate taking-part``: what each centre gains by taking part, as page, picture and figures."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import fmean

from phcc_model.errors import ConfigError
from phcc_model.storage import write_atomically
from phcc_server.report.canvas import canvas
from phcc_server.report.table import line, plain
from phcc_server.report.wording import DASH, signed
from phcc_simulation.proof.commands import console, say, write_picture
from phcc_simulation.proof.drawing import Drawing, above, finish, intervals
from phcc_simulation.proof.figures import BOOTSTRAP, REPLICATES, Draws
from phcc_simulation.proof.runs import read_runs
from phcc_simulation.proof.schema import Figure
from phcc_simulation.proof.taking_part import PAIRS, TAKES_PART, WAYS, AtCentre, as_plain, at_centre
from phcc_simulation.proof.text import auc_in_words, difference

PAGE, FIGURES = "taking-part.md", "taking-part.json"


def show_taking_part(whole: Path, without: Sequence[Path], out: Path) -> None:
    """Write what each centre gains by taking part, as page, picture and figures, and print the page.

    Raises:
        ConfigError: a folder leaves no centre out, or the same as another one, or is of another study.
        StorageError: no seed of a folder is finished, a file is damaged, or the disk is full.
    """
    runs, _ = read_runs(whole)
    draws = Draws(REPLICATES, runs[0].study.evaluation.confidence)
    centres: list[AtCentre] = []
    for folder in without:
        say(f"comparing {folder.name}")
        one = at_centre(runs, read_runs(folder)[0], draws)
        if one.centre in {other.centre for other in centres}:
            raise ConfigError(
                f"leaves out {one.centre}, as another folder does",
                where=str(folder),
                remedy="Name one folder for each centre; seeds of one centre may lie side by side in it",
            )
        centres.append(one)
    synthetic = any(run.summary.data.synthetic for run in runs)
    text = page(runs[0].study.name, centres, draws, synthetic=synthetic)
    write_picture(out, picture(centres, draws, synthetic=synthetic))
    write_atomically(out / PAGE, text)
    figures = {"study": runs[0].study.name, "synthetic": synthetic, "centres": list(map(as_plain, centres))}
    write_atomically(out / FIGURES, json.dumps(figures, indent=2) + "\n")
    console.print(text, markup=False)
    console.print(f"text    {out / PAGE}\nfigures {out / FIGURES}", markup=False)


def page(study: str, centres: Sequence[AtCentre], draws: Draws, *, synthetic: bool) -> str:
    """The page as Markdown.

    Args:
        study: its name.
        centres: at least one.
        draws: by which the figures were worked out.
        synthetic: whether any patient is.
    """
    kind = ", synthetic data" if synthetic else ""
    lines = [f"# {plain(study)}: what a centre gains by taking part{kind}", ""]
    lines += [
        "AUC on the centre's own test patients, by the network of the federation in which it *takes part*, by "
        "the others' when it is *left out*, and by one of its own patients *alone*. Means over seeds.",
        "",
        *_table(centres),
        "",
        "![AUC at each centre](taking-part.svg)",
        "",
        f"Intervals: {100 * draws.confidence:.0f} %, {BOOTSTRAP}, {draws.replicates} replicates; ways are "
        "compared on the same patients of the same seeds. Means over centres have none: centres share networks.",
    ]
    if any(len(one.seeds) == 1 for at in centres for one in at.auc.values()):
        lines.append("With one seed only its patients vary: the interval says nothing about seeds.")
    return "\n".join([*lines, "", "Every number stands in `taking-part.json`."]) + "\n"


def _table(centres: Sequence[AtCentre]) -> Iterator[str]:
    yield line(["centre", "seeds", "cases (positive)", *WAYS, *(f"{a} − {b}" for a, b in PAIRS)])
    yield f"| --- | --- | ---: |{' ---: |' * (len(WAYS) + len(PAIRS))}"
    for at in centres:
        one = at.auc[TAKES_PART]
        seeds = ", ".join(map(str, one.seeds))
        ways = [DASH if (area := at.auc.get(way)) is None else auc_in_words(area) for way in WAYS]
        gains = [DASH if (gain := at.gains.get(pair)) is None else difference(gain) for pair in PAIRS]
        yield line([plain(cell) for cell in (at.centre, seeds, f"{one.n} ({one.n_pos})", *ways, *gains)])
    if len(centres) > 1:
        areas = [_mean([at.auc.get(way) for at in centres]) for way in WAYS]
        gained = [_mean([at.gains.get(pair) for at in centres]) for pair in PAIRS]
        cells = [DASH if area is None else f"{area:.3f}" for area in areas]
        cells += [DASH if gain is None else signed(gain, 3) for gain in gained]
        yield line(["mean", "", "", *cells])


def _mean(figures: Sequence[Figure | None]) -> float | None:
    """The plain mean, where every centre has the figure."""
    known = [one.value for one in figures if one is not None and one.value is not None]
    return fmean(known) if len(known) == len(figures) else None


def picture(centres: Sequence[AtCentre], draws: Draws, *, synthetic: bool) -> Drawing:
    """Each centre's AUC, one mark a way."""
    rows = {at.centre: [at.auc.get(way) for way in WAYS] for at in centres}
    name = f"What a centre gains by taking part{', synthetic' if synthetic else ''}"
    with canvas(height=1.4 + 0.5 * len(rows)) as sheet:
        axes = sheet.panels[0]
        intervals(axes, rows, WAYS, undefined=0.5)
        axes.set_xlabel("AUC on the centre's own test patients")
        above(sheet.figure, name)
        sheet.figure.legend(*axes.get_legend_handles_labels(), loc="outside lower left", ncols=3)
        caption = f"Bars are {100 * draws.confidence:.0f} % intervals over seeds and patients."
        return finish(sheet.figure, sheet.picture("taking-part", name, caption))
