"""The report as one HTML page that stands alone (no script, no font, no request), and ``summary.json``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined
from pydantic import JsonValue

from phcc_model.storage import write_atomically
from phcc_server.report import wording
from phcc_server.report.canvas import Picture
from phcc_server.report.curves import stage_title, training_pictures, weighting_pictures
from phcc_server.report.figures import forest_pictures, roc_pictures, score_pictures, split_picture
from phcc_server.report.schema import TEST_SPLITS, TRAIN, ArmResult, PairedResult, RoundSummary, Summary
from phcc_server.report.summary import ScoredCase
from phcc_server.report.table import result_rows, table_title

SUMMARY_FILE = "summary.json"
REPORT_FILE = "report.html"


@dataclass(frozen=True)
class TableView:
    """A table as the page shows it; on a phone each row becomes a card.

    Attributes:
        header: one name per column.
        rows: as many cells each; the first names the row.
    """

    header: list[str]
    rows: list[list[str]]


@dataclass(frozen=True)
class RoundsView:
    """The rounds of one stage of one arm."""

    title: str
    headline: str
    table: TableView
    incomplete: bool


def write_report(
    folder: Path,
    summary: Summary,
    *,
    scored: Sequence[ScoredCase],
    config_yaml: str,
    notes: Sequence[str] = (),
) -> Path:
    """Write ``summary.json`` and ``report.html``, each in one step.

    Args:
        folder: of the run; made if need be.
        summary: the figures.
        scored: the cases that they were worked out from, for the curves.
        config_yaml: what was configured.
        notes: warnings from elsewhere, e.g. what the splits lack; one line each.

    Returns:
        The path of the page.

    Raises:
        StorageError: the disk is full or not writable.
    """
    page = render_page(summary, scored=scored, config_yaml=config_yaml, notes=notes)
    write_atomically(folder / SUMMARY_FILE, summary.model_dump_json(indent=2) + "\n")
    write_atomically(folder / REPORT_FILE, page)
    return folder / REPORT_FILE


def render_page(
    summary: Summary, *, scored: Sequence[ScoredCase], config_yaml: str, notes: Sequence[str] = ()
) -> str:
    """The page as text; the same input gives the same text.

    Everything from outside is escaped; the figures alone are taken as they are, drawn by matplotlib, which
    escapes the text in them.
    """
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    source = resources.files("phcc_server.report").joinpath("report.html.j2").read_text(encoding="utf-8")
    return environment.from_string(source).render(_view(summary, scored, config_yaml, notes))


def _view(
    summary: Summary, scored: Sequence[ScoredCase], config_yaml: str, notes: Sequence[str]
) -> dict[str, Any]:
    tests, centres = _paired_tables(summary)
    return {
        "summary": summary,
        "title": table_title(summary),
        "verdict": wording.verdict(summary),
        "alpha": f"{wording.alpha(summary):g}",
        "incomplete": [_incomplete(record) for record in summary.incomplete],
        "notes": [*notes, *wording.warnings(summary)],
        "main": TableView(*result_rows(summary)),
        "ceilings": [(name, wording.figure(value)) for name, value in summary.best_possible_auc.items()],
        "paired": tests,
        "paired_centres": centres,
        "operating": _operating_table(summary),
        "gap": _gap_table(summary),
        "result_pictures": _result_pictures(summary, scored),
        "training_pictures": [*training_pictures(summary), *weighting_pictures(summary)],
        "split_picture": split_picture(summary),
        "funnel": _funnel_table(summary),
        "rounds": _rounds(summary),
        "timing": _flat(summary.timing),
        "config": config_yaml,
        "limitations": list(wording.limitations(summary)),
    }


def _result_pictures(summary: Summary, scored: Sequence[ScoredCase]) -> list[Picture]:
    return [*roc_pictures(summary, scored), *forest_pictures(summary), *score_pictures(summary, scored)]


def _paired_tables(summary: Summary) -> tuple[TableView, TableView]:
    """Differences on the two tests, and centre by centre."""
    header = ["arms", "split", "difference of AUC", "p", "bootstrap", "cases"]
    tests = [_paired_row(pair) for pair in summary.paired if pair.split in TEST_SPLITS]
    centres = [_paired_row(pair) for pair in summary.paired if pair.split not in TEST_SPLITS]
    return TableView(header, tests), TableView(header, centres)


def _paired_row(pair: PairedResult) -> list[str]:
    difference = wording.UNDEFINED
    if pair.delta is not None:
        difference = f"{wording.signed(pair.delta)} ({wording.limits(pair.ci)})"
    return [
        f"{pair.a} minus {pair.b}",
        wording.split_title(pair.split),
        difference,
        wording.p_value(pair.p) if pair.p is not None else (pair.reason or wording.DASH),
        wording.limits(pair.bootstrap_ci),
        f"{pair.n}, {pair.n_pos} positive",
    ]


def _operating_table(summary: Summary) -> TableView:
    header = [
        "arm",
        "split",
        "threshold",
        "sensitivity",
        "specificity",
        "PPV",
        "NPV",
        "Brier",
        "calibration slope",
    ]
    rows = []
    for arm, results in summary.arms.items():
        for split in TEST_SPLITS:
            result = results[split]
            row = [_or_reason(result, "threshold", 3)]
            row += [_or_reason(result, name) for name in ("sensitivity", "specificity", "ppv", "npv")]
            row += [_or_reason(result, "brier", 3), _or_reason(result, "calibration_slope")]
            rows.append([arm, wording.split_title(split), *row])
    return TableView(header, rows)


def _or_reason(result: ArmResult, name: str, digits: int = 2) -> str:
    """A figure, with its interval where it has one; where there is none, why."""
    value = getattr(result, name)
    if value is None:
        return f"{wording.UNDEFINED}: {result.reasons[name]}" if name in result.reasons else wording.UNDEFINED
    return wording.estimate(value, getattr(result, f"{name}_ci", None), digits)


def _gap_table(summary: Summary) -> TableView | None:
    """Training AUC beside the tests': over-fitting shows as a gap."""
    if TRAIN not in summary.splits:
        return None
    rows = []
    for arm, results in summary.arms.items():
        training = results[TRAIN].auc
        gaps = [
            wording.signed(None if training is None or auc is None else auc - training)
            for auc in (results[split].auc for split in TEST_SPLITS)
        ]
        rows.append([arm, wording.figure(training), *gaps])
    return TableView(
        ["arm", "AUC in training", *(f"{wording.split_title(s)} minus training" for s in TEST_SPLITS)], rows
    )


def _funnel_table(summary: Summary) -> TableView | None:
    if not summary.data.funnel:
        return None
    rows = [
        [
            centre,
            str(funnel.found),
            str(funnel.used),
            "; ".join(f"{count}: {reason}" for reason, count in funnel.set_aside.items()) or "none",
        ]
        for centre, funnel in summary.data.funnel.items()
    ]
    return TableView(["centre", "found", "used", "set aside"], rows)


def _rounds(summary: Summary) -> list[RoundsView]:
    views = []
    for arm, stage in dict.fromkeys((record.arm, record.stage) for record in summary.rounds):
        records = [record for record in summary.rounds if (record.arm, record.stage) == (arm, stage)]
        incomplete = [record for record in records if record.status != "COMPLETE"]
        sites = [site for record in records for site in record.sites.values()]
        headline = ", ".join(
            (
                f"{len(records)} rounds",
                f"{len(incomplete)} incomplete" if incomplete else "all complete",
                wording.duration(sum(record.seconds or 0.0 for record in records)),
                f"{wording.size(sum(site.bytes_down for site in sites))} to the sites",
                f"{wording.size(sum(site.bytes_up for site in sites))} back",
            )
        )
        header = [
            "round",
            "status",
            "took part",
            "validation loss",
            "validation AUC",
            "time",
            "bytes down",
            "bytes up",
        ]
        table = TableView(header, [_round_row(record) for record in records])
        views.append(RoundsView(f"{arm}: {stage_title(stage)}", headline, table, bool(incomplete)))
    return views


def _round_row(record: RoundSummary) -> list[str]:
    validation = record.validation
    return [
        f"{record.round + 1}{' (best)' if record.best else ''}",
        record.status,
        _participants(record),
        wording.figure(validation.loss if validation else None, 3),
        wording.figure(validation.auc if validation else None),
        wording.duration(record.seconds),
        wording.size(sum(site.bytes_down for site in record.sites.values())),
        wording.size(sum(site.bytes_up for site in record.sites.values())),
    ]


def _participants(record: RoundSummary) -> str:
    parts = []
    for name, site in record.sites.items():
        detail = [] if site.cases is None else [f"{site.cases} cases"]
        if site.seconds is not None:
            detail.append(wording.duration(site.seconds))
        if site.status != "accepted":
            detail = [site.status, *([site.reason] if site.reason else [])]
        parts.append(f"{name} ({', '.join(detail)})" if detail else name)
    return "; ".join(parts) or "nobody"


def _incomplete(record: RoundSummary) -> str:
    missing = [
        f"{name}: {site.reason or site.status}"
        for name, site in record.sites.items()
        if site.status != "accepted"
    ]
    text = f"{record.arm}, {stage_title(record.stage)}, round {record.round + 1} is {record.status}"
    return f"{text} ({'; '.join(missing)})" if missing else text


def _flat(timing: dict[str, JsonValue], prefix: str = "") -> list[tuple[str, str]]:
    rows: list[tuple[str, str]] = []
    for name, value in timing.items():
        if isinstance(value, dict):
            rows += _flat(value, f"{prefix}{name}: ")
        else:
            plain = isinstance(value, int | float) and not isinstance(value, bool)
            rows.append((f"{prefix}{name}", wording.duration(float(str(value))) if plain else str(value)))
    return rows
