"""The report as one HTML page that stands alone (no script, no font, no request), and what lies beside it.

Beside it: ``summary.json`` with every figure, ``figures/`` with each picture by itself, ``model-card.md`` and
``checklists.md``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from importlib import resources
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined

from phcc_model.storage import write_atomically
from phcc_server.report import tables, wording
from phcc_server.report.canvas import Picture
from phcc_server.report.card import model_card
from phcc_server.report.checklist import CLAIM, TRIPOD, checklists, known, rows
from phcc_server.report.clinical import breakdown_pictures, clinical_pictures, subgroup_pictures
from phcc_server.report.curves import training_pictures, weighting_pictures
from phcc_server.report.evaluation import ScoredCase
from phcc_server.report.figures import forest_pictures, roc_pictures, score_pictures, split_picture
from phcc_server.report.photographs import Photograph
from phcc_server.report.schema import Summary
from phcc_server.report.table import result_rows, table_title
from phcc_server.seen import in_words

SUMMARY_FILE = "summary.json"
REPORT_FILE = "report.html"
CARD_FILE = "model-card.md"
CHECKLIST_FILE = "checklists.md"
FIGURES = "figures"
_INTERVAL = re.compile(r"\(-?[\d.]+ to -?[\d.]+\)")
_UNFOLDED = 3
"""So many arms' training is shown at once; of more, one asks for each."""

Drawn = Mapping[str, list[Picture]]
"""Figures, by their part of the page."""


def write_report(
    folder: Path,
    summary: Summary,
    *,
    scored: Sequence[ScoredCase],
    config_yaml: str,
    notes: Sequence[str] = (),
    photographs: Sequence[Photograph] = (),
) -> Path:
    """Write the page and what lies beside it, each file in one step.

    Args:
        folder: of the run; made if need be.
        summary: the figures.
        scored: the cases that they were worked out from, for the curves.
        config_yaml: what was configured.
        notes: warnings from elsewhere, e.g. what the splits lack; one line each.
        photographs: pictures of voxels, where the run kept some.

    Returns:
        The path of the page.

    Raises:
        StorageError: the disk is full or not writable.
    """
    summary = summary.model_copy(update={"notes": tuple(notes)})
    drawn = draw(summary, scored)
    page = render_page(
        summary, scored=scored, config_yaml=config_yaml, notes=notes, photographs=photographs, drawn=drawn
    )
    write_atomically(folder / SUMMARY_FILE, summary.model_dump_json(indent=2) + "\n")
    write_atomically(folder / CARD_FILE, model_card(summary))
    write_atomically(folder / CHECKLIST_FILE, checklists(summary))
    for picture in (picture for group in drawn.values() for picture in group):
        write_atomically(folder / FIGURES / f"{_file_name(picture.name)}.svg", picture.document)
    for photograph in photographs:
        write_atomically(folder / FIGURES / f"{_file_name(photograph.name)}.png", photograph.png)
    write_atomically(folder / REPORT_FILE, page)
    return folder / REPORT_FILE


def render_page(
    summary: Summary,
    *,
    scored: Sequence[ScoredCase],
    config_yaml: str,
    notes: Sequence[str] = (),
    photographs: Sequence[Photograph] = (),
    drawn: Drawn | None = None,
) -> str:
    """The page as text; the same input gives the same text.

    `drawn` spares the drawing where it was done already.

    Everything from outside is escaped; the figures alone are taken as they are, drawn by matplotlib, which
    escapes the text in them.
    """
    summary = summary.model_copy(update={"notes": tuple(notes)})
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["whole"] = _whole_intervals
    source = resources.files("phcc_server.report").joinpath("report.html.j2").read_text(encoding="utf-8")
    drawn = draw(summary, scored) if drawn is None else drawn
    view = _view(summary, drawn, config_yaml, notes)
    return environment.from_string(source).render(
        **view,
        training=_training(drawn["training_pictures"], photographs),
        mistakes=[one for one in photographs if one.part == "mistakes"],
    )


@dataclass(frozen=True)
class TrainingView:
    """What is shown of one arm's training."""

    arm: str
    pictures: list[Picture]
    photographs: list[Photograph]
    open: bool


def _training(pictures: Sequence[Picture], photographs: Sequence[Photograph]) -> list[TrainingView]:
    """Arm by arm; of many arms only the first one is unfolded."""
    filled = [one for one in photographs if one.part == "training"]
    arms = list(dict.fromkeys([one.group for one in pictures] + [one.group for one in filled]))
    return [
        TrainingView(
            arm,
            [one for one in pictures if one.group == arm],
            [one for one in filled if one.group == arm],
            open=at == 0 or len(arms) <= _UNFOLDED,
        )
        for at, arm in enumerate(arms)
    ]


def draw(summary: Summary, scored: Sequence[ScoredCase]) -> Drawn:
    """Every figure, by its part of the page."""
    split = split_picture(summary)
    return {
        "result_pictures": [
            *roc_pictures(summary, scored),
            *forest_pictures(summary),
            *score_pictures(summary, scored),
        ],
        "breakdown_pictures": breakdown_pictures(summary),
        "subgroup_pictures": subgroup_pictures(summary),
        "clinical_pictures": clinical_pictures(summary),
        "split_pictures": [split] if split else [],
        "training_pictures": [*training_pictures(summary), *weighting_pictures(summary)],
    }


def _view(summary: Summary, drawn: Drawn, config_yaml: str, notes: Sequence[str]) -> dict[str, Any]:
    tests, centres = tables.paired_tables(summary)
    answers = known(summary)
    return {
        "summary": summary,
        "title": table_title(summary),
        "verdict": wording.verdict(summary),
        "alpha": f"{wording.alpha(summary):g}",
        "incomplete": [tables.incomplete(record) for record in summary.incomplete],
        "notes": [*notes, *wording.warnings(summary)],
        "main": tables.TableView(*result_rows(summary)),
        "ceilings": [(name, wording.figure(value)) for name, value in summary.best_possible_auc.items()],
        "paired": tests,
        "paired_centres": centres,
        "pooled": tables.pooled_table(summary),
        "operating": tables.operating_table(summary),
        "probabilities": tables.probability_table(summary),
        "predictive": tables.predictive_table(summary),
        "gap": tables.gap_table(summary),
        "subgroups": tables.subgroup_table(summary),
        "failures": tables.failure_table(summary),
        **drawn,
        "funnel": tables.funnel_table(summary),
        "images": list(in_words(summary.data.seen)) if summary.data.seen else [],
        "validation": tables.validation_table(summary),
        "rounds": tables.rounds(summary),
        "timing": tables.flat(summary.timing),
        "config": config_yaml,
        "limitations": list(wording.limitations(summary)),
        "card": model_card(summary),
        "checklists": [
            (
                name,
                tables.TableView(["item", "topic", "in this study"], [list(r) for r in rows(items, answers)]),
            )
            for name, items in (("TRIPOD+AI", TRIPOD), ("CLAIM, 2024 update", CLAIM))
        ],
    }


def _whole_intervals(text: str) -> str:
    """A cell as HTML in which no interval is broken over two lines."""
    return _INTERVAL.sub(r"<span>\g<0></span>", escape(text))


def _file_name(name: str) -> str:
    """A figure's name as a file's: an arm may be called ``local:A/B``."""
    return re.sub(r"[^a-z0-9-]+", "-", name.lower()).strip("-") or "figure"
