"""What a judged run leaves: scores.csv, every figure in summary.json, both phantoms side by side in judge.md."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from phcc_model.errors import ConfigError
from phcc_model.outcome import outcome_of
from phcc_model.storage import write_atomically
from phcc_server.report.again import read_summary
from phcc_server.report.page import SUMMARY_FILE
from phcc_server.report.schema import EXTERNAL, ArmResult, PairedResult, Summary
from phcc_server.report.scores import SCORES_FILE, scores_csv
from phcc_server.report.summary import build_summary
from phcc_server.report.table import line, plain
from phcc_server.report.wording import DASH, estimate, limits, p_value, signed
from phcc_simulation.judge import Judged
from phcc_simulation.phantom import SECOND_VERSION

TEXT = "judge.md"


def write_judged(out: Path, judged: Judged, first: Summary | None) -> Summary:
    """Work out every figure of a judged run and write its files.

    Args:
        out: the folder of the judgement.
        judged: the scores.
        first: the run's own summary, whose external figures stand beside; None where the run wrote none.

    Raises:
        ConfigError: the folder holds the judgement of another run, or of other weights.
        StorageError: the disk is full or not writable.
    """
    summary = summary_of(judged)
    _must_be_the_same(out, summary)
    write_atomically(out / SCORES_FILE, scores_csv(judged.scored))
    write_atomically(out / TEXT, markdown(summary, first, judged.left_out))
    write_atomically(out / SUMMARY_FILE, summary.model_dump_json(indent=2) + "\n")
    return summary


def first_of(run: Path) -> Summary | None:
    """The figures that a run has from its own patients; None where it has not got so far.

    Raises:
        StorageError: they are damaged.
    """
    return read_summary(run) if (run / SUMMARY_FILE).is_file() else None


def summary_of(judged: Judged) -> Summary:
    """Every figure, as a run's report has them; all patients are external, each scanner is a centre."""
    study, patients = judged.study, judged.patients
    aside: dict[str, int] = {}
    for one in judged.set_aside:
        aside[one.reason] = aside.get(one.reason, 0) + 1
    return build_summary(
        judged.scored,
        study=study.name,
        data={
            "synthetic": True,
            "source": study.data.source,
            "outcome": outcome_of(study.data).model_dump(),
            "patients": patients.patients,
            "phases": list(study.data.phases),
            "split": [
                {
                    "centre": centre,
                    "split": EXTERNAL,
                    "positives": counts["proliferative"],
                    "negatives": counts["patients"] - counts["proliferative"],
                }
                for centre, counts in patients.by_centre.items()
            ],
            "funnel": {
                "all centres": {
                    "found": patients.patients,
                    "used": patients.patients - sum(aside.values()),
                    "set_aside": aside,
                }
            },
            "phantom_version": SECOND_VERSION,
            "oracle_auc": dict(patients.oracle_auc),
        },
        best_possible_auc=patients.best_possible_auc,
        digests={
            "study": study.digest,
            "phantom": patients.digest,
            **{f"weights.{arm}": digest for arm, digest in judged.weights.items()},
        },
        confidence=study.evaluation.confidence,
        bootstrap=study.evaluation.bootstrap,
        seed=study.seed,
    )


def _must_be_the_same(out: Path, summary: Summary) -> None:
    """The judge speaks once: a folder never changes from one run's weights to another's."""
    if not (out / SUMMARY_FILE).is_file():
        return
    before = read_summary(out).digests
    for name, digest in summary.digests.items():
        if before.get(name, digest) != digest:
            raise ConfigError(
                f"holds a judgement in which {name} was another",
                where=str(out),
                remedy="Choose another --out, and say that there were two",
            )


def markdown(summary: Summary, first: Summary | None, left_out: tuple[str, ...]) -> str:
    """The page for people: both phantoms' figures side by side."""
    parts = [
        f"# {plain(summary.study)}: judged by the second phantom, synthetic data",
        "\n".join(f"{n}. {plain(text)}" for n, text in enumerate(headlines(summary, left_out), 1)),
        f"## AUC with {100 * summary.confidence:.0f} % interval (DeLong), synthetic data",
        "\n".join(_areas(summary, first)),
    ]
    if summary.paired:
        reference = plain(summary.paired[0].a)
        parts += [f"## {reference} less each arm, synthetic data", "\n".join(_differences(summary, first))]
    digests = "\n".join(f"{plain(name)} `{digest[:12]}`  " for name, digest in summary.digests.items())
    parts += [
        "## Digests",
        digests,
        f"Every number stands in `{SUMMARY_FILE}`, every score in `{SCORES_FILE}`.",
    ]
    return "\n\n".join(parts) + "\n"


def headlines(summary: Summary, left_out: tuple[str, ...]) -> Iterator[str]:
    """What was done, and what the data allow."""
    whole = next(iter(summary.arms.values()))[EXTERNAL]
    scanners = ", ".join(summary.centres)
    yield "Synthetic data: no figure here says anything about patients."
    yield (
        f"{whole.n} patients ({whole.n_pos} positive) of scanners {scanners}: other patients, scanners and "
        "protocols than all that was trained, chosen or tuned on; the disease is the same."
    )
    ceilings = [f"{what} {best:.3f}" for what, best in summary.best_possible_auc.items() if best is not None]
    yield f"Best possible AUC in the long run, by what a score may see: {'; '.join(ceilings)}."
    reached = (summary.data.model_extra or {}).get("oracle_auc")
    if isinstance(reached, dict) and isinstance(reached.get("all"), float):
        yield f"The planted truth itself, AFP and size included, reaches {reached['all']:.3f} on these patients."
    if left_out:
        yield f"Not finished and left out: {', '.join(left_out)}."


def _areas(summary: Summary, first: Summary | None) -> Iterator[str]:
    scanners = summary.centres
    yield line(["arm", "first phantom, external", "second phantom", *map(plain, scanners)])
    yield "| --- |" + " ---: |" * (2 + len(scanners))
    for arm, results in summary.arms.items():
        cells = [
            _of(first, arm),
            _estimate(results[EXTERNAL]),
            *(_estimate(results[one]) for one in scanners),
        ]
        yield line([plain(cell) for cell in (arm, *cells)])


def _differences(summary: Summary, first: Summary | None) -> Iterator[str]:
    reference = summary.paired[0].a
    yield line([f"{plain(reference)} less", "first phantom, external", "second phantom", "p"])
    yield "| --- | ---: | ---: | ---: |"
    before = (
        {one.b: one for one in first.paired if (one.a, one.split) == (reference, EXTERNAL)} if first else {}
    )
    for pair in summary.paired:
        if pair.split == EXTERNAL:
            cells = (pair.b, _delta(before.get(pair.b)), _delta(pair), p_value(pair.p))
            yield line([plain(cell) for cell in cells])


def _of(first: Summary | None, arm: str) -> str:
    found = first.arms.get(arm, {}).get(EXTERNAL) if first is not None else None
    return DASH if found is None else _estimate(found)


def _estimate(result: ArmResult) -> str:
    return estimate(result.auc, result.ci, 3)


def _delta(pair: PairedResult | None) -> str:
    if pair is None or pair.delta is None or pair.ci is None:
        return DASH
    return f"{signed(pair.delta, 3)} ({limits(pair.ci, 3)})"
