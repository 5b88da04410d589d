"""The tables of the report, row by row, as the page shows them."""

from __future__ import annotations

from dataclasses import dataclass

from pydantic import JsonValue

from phcc_server.report import wording
from phcc_server.report.breakdown import CENTRES
from phcc_server.report.curves import stage_title
from phcc_server.report.schema import TEST_SPLITS, VALIDATION, ArmResult, PairedResult, RoundSummary, Summary


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


def paired_tables(summary: Summary) -> tuple[TableView, TableView]:
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


def operating_table(summary: Summary) -> TableView:
    """What the frozen threshold does."""
    header = ["arm", "split", "threshold", "sensitivity", "specificity", "PPV", "NPV", "F1"]
    rows = []
    for arm, results in summary.arms.items():
        for split in TEST_SPLITS:
            result = results[split]
            row = [_or_reason(result, "threshold", 3)]
            row += [_or_reason(result, name) for name in ("sensitivity", "specificity", "ppv", "npv", "f1")]
            rows.append([arm, wording.split_title(split), *row])
    return TableView(header, rows)


def probability_table(summary: Summary) -> TableView:
    """How far the scores can be believed as probabilities, and how they rank."""
    header = ["arm", "split", "average precision", "Brier", "calibration intercept", "calibration slope"]
    rows = []
    for arm, results in summary.arms.items():
        for split in TEST_SPLITS:
            result = results[split]
            row = [_or_reason(result, "average_precision"), _or_reason(result, "brier", 3)]
            row += [_or_reason(result, f"calibration_{name}") for name in ("intercept", "slope")]
            rows.append([arm, wording.split_title(split), *row])
    return TableView(header, rows)


def _or_reason(result: ArmResult, name: str, digits: int = 2) -> str:
    """A figure, with its interval where it has one; where there is none, why."""
    value = getattr(result, name)
    if value is None:
        return f"{wording.UNDEFINED}: {result.reasons[name]}" if name in result.reasons else wording.UNDEFINED
    return wording.estimate(value, getattr(result, f"{name}_ci", None), digits)


def gap_table(summary: Summary) -> TableView | None:
    """Training AUC beside the tests': over-fitting shows as a gap."""
    if not summary.gaps:
        return None
    rows = []
    for arm in dict.fromkeys(gap.arm for gap in summary.gaps):
        gaps = [gap for gap in summary.gaps if gap.arm == arm]
        told = " (as the sites said while training)" if gaps[0].source == "reported" else ""
        cells = [
            f"{wording.UNDEFINED}: {gap.reason}"
            if gap.gap is None
            else wording.signed(gap.gap) + (f" ({wording.limits(gap.ci)})" if gap.ci else "")
            for gap in gaps
        ]
        rows.append([arm, f"{wording.figure(gaps[0].training)}{told}", *cells])
    header = ["arm", "AUC in training", *(f"training minus {wording.split_title(s)}" for s in TEST_SPLITS)]
    return TableView(header, rows)


def pooled_table(summary: Summary) -> TableView | None:
    """Means over centres by random-effects meta-analysis."""
    if not summary.pooled:
        return None
    rows = []
    for one in summary.pooled:
        whose = "all centres" if one.split == CENTRES else wording.split_title(one.split)
        mean = wording.estimate(one.auc, one.ci)
        left_out = "; ".join(f"{centre}: {reason}" for centre, reason in one.left_out.items()) or "none"
        spread = wording.DASH if one.i2 is None else f"{100 * one.i2:.0f} % (p = {wording.p_value(one.q_p)})"
        rows.append(
            [
                one.arm,
                f"{whose}, {one.centres} pooled",
                mean if one.reason is None else f"{mean}: {one.reason}",
                wording.limits(one.prediction),
                spread.replace("= <", "<"),
                wording.figure(one.tau2, 3),
                left_out,
            ]
        )
    header = ["arm", "centres", "mean AUC", "another centre", "I²", "τ² (logit)", "left out"]
    return TableView(header, rows)


def predictive_table(summary: Summary) -> TableView | None:
    """PPV and NPV where positives are rarer or more frequent, by Bayes' rule."""
    rows = []
    shares: list[float] = []
    for arm, results in summary.arms.items():
        for split in TEST_SPLITS:
            at = results[split].predictive
            if at:
                shares = [one.prevalence for one in at]
                cells = [
                    f"{wording.estimate(one.ppv, one.ppv_ci)} / {wording.estimate(one.npv, one.npv_ci)}"
                    for one in at
                ]
                rows.append([arm, wording.split_title(split), *cells])
    if not rows:
        return None
    return TableView(["arm", "split", *(f"at {100 * share:.0f} %" for share in shares)], rows)


def subgroup_table(summary: Summary) -> TableView | None:
    """The parts of the reference arm's test patients."""
    if not summary.subgroups:
        return None
    rows = [
        [
            f"{one.trait}: {wording.group(one.group)}",
            one.too_small or wording.estimate(one.auc, one.ci),
            f"{one.n}, {one.n_pos} positive",
            wording.p_value(one.p),
        ]
        for one in summary.subgroups
    ]
    return TableView(["part", "AUC", "cases", "p of no difference"], rows)


def failure_table(summary: Summary) -> TableView | None:
    """The surest mistakes, by pseudonym."""
    if not summary.failures:
        return None
    rows = [
        [
            one.case,
            one.centre,
            wording.split_title(one.split),
            "missed: positive" if one.label == 1 else "false alarm: negative",
            f"{one.score:.3f} (threshold {one.threshold:.3f})",
            f"{100 * one.sureness:.0f} %",
        ]
        for one in summary.failures
    ]
    return TableView(["case", "centre", "split", "mistake", "score", "sureness"], rows)


def funnel_table(summary: Summary) -> TableView | None:
    """What became of each centre's patients: found, set aside, used, labelled, and in which part.

    Where patients were set aside before anybody knew their centre, all centres have one row for that.
    """
    data = summary.data
    centres = list(dict.fromkeys([*data.funnel, *(count.centre for count in data.split)]))
    rows = []
    for centre in centres:
        counts = [count for count in data.split if count.centre == centre]
        funnel = data.funnel.get(centre)
        used = sum(count.patients for count in counts) if counts or funnel is None else funnel.used
        reasons = funnel.set_aside.items() if funnel else ()
        parts = {part: sum(c.patients for c in counts if c.split in names) for part, names in _PARTS.items()}
        rows.append(
            [
                centre,
                str(funnel.found) if funnel else wording.DASH,
                ("; ".join(f"{count}: {reason}" for reason, count in reasons) or "none")
                if funnel
                else wording.DASH,
                str(used),
                *(
                    (
                        str(sum(c.positives + c.negatives for c in counts)),
                        str(sum(c.positives for c in counts)),
                        *(str(parts[part]) for part in _PARTS),
                    )
                    if counts
                    else [wording.DASH] * (2 + len(_PARTS))
                ),
            ]
        )
    return (
        TableView(["centre", "found", "set aside", "used", "labelled", "positive", *_PARTS], rows)
        if rows
        else None
    )


_PARTS = {"train": ("train",), "validation": ("validation",), "test": ("test", "internal", "external")}
"""Parts of the patients, and what splits are called."""


def validation_table(summary: Summary) -> TableView | None:
    """Each arm on the validation patients: where recalibration and threshold come from."""
    rows = [
        [
            arm,
            f"{result.n}, {result.n_pos} positive",
            _or_reason(result, "auc"),
            _or_reason(result, "brier", 3),
            *(_or_reason(result, f"calibration_{name}") for name in ("intercept", "slope")),
        ]
        for arm, results in summary.arms.items()
        if (result := results.get(VALIDATION)) is not None and result.n
    ]
    header = ["arm", "cases", "AUC", "Brier", "calibration intercept", "calibration slope"]
    return TableView(header, rows) if rows else None


def rounds(summary: Summary) -> list[RoundsView]:
    """Every round of every arm and stage."""
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


def incomplete(record: RoundSummary) -> str:
    """A round that lacks a site, in one line."""
    missing = [
        f"{name}: {site.reason or site.status}"
        for name, site in record.sites.items()
        if site.status != "accepted"
    ]
    text = f"{record.arm}, {stage_title(record.stage)}, round {record.round + 1} is {record.status}"
    return f"{text} ({'; '.join(missing)})" if missing else text


def flat(timing: dict[str, JsonValue], prefix: str = "") -> list[tuple[str, str]]:
    """Times, however deep they lie, for people."""
    rows: list[tuple[str, str]] = []
    for name, value in timing.items():
        if isinstance(value, dict):
            rows += flat(value, f"{prefix}{name}: ")
        else:
            plain = isinstance(value, int | float) and not isinstance(value, bool)
            rows.append((f"{prefix}{name}", wording.duration(float(str(value))) if plain else str(value)))
    return rows
