"""``judge.md`` of several seeds, for people: both phantoms' figures side by side."""

from __future__ import annotations

from collections.abc import Iterator

from phcc_server.report.table import line, plain
from phcc_server.report.wording import estimate, figure, limits, signed
from phcc_simulation.judge_seeds import FIGURES, JudgedSeeds
from phcc_simulation.proof.claims import FULL
from phcc_simulation.proof.schema import Figure


def markdown(found: JudgedSeeds) -> str:
    """The page: both phantoms' figures side by side."""
    kind = "synthetic data"
    parts = [
        f"# {plain(found.study)}: {len(found.seeds)} seeds judged by the second phantom, {kind}",
        "\n".join(f"{n}. {plain(text)}" for n, text in enumerate(headlines(found), 1)),
        f"## AUC, mean over seeds, {kind}",
        "\n".join(_areas(found)),
    ]
    if found.differences:
        parts += [f"## {FULL} less each arm, {kind}", "\n".join(_differences(found))]
    parts += ["## Seeds", "\n".join(_seeds(found)), f"Every number stands in `{FIGURES}`."]
    return "\n\n".join(parts) + "\n"


def headlines(found: JudgedSeeds) -> Iterator[str]:
    """What was done, how sure it is, and what the data allow."""
    yield "Synthetic data: no figure here says anything about patients."
    yield (
        "First phantom: the external centre of the study's own report. Second phantom: other patients of five "
        f"other scanners (version {found.phantom_version}), on which nothing was trained, chosen or tuned; the "
        "disease is the same."
    )
    yield (
        f"Intervals: {100 * found.confidence:.0f} %, {found.bootstrap}, {found.replicates} replicates; nothing "
        "is corrected for the number of comparisons."
    )
    best = [f"{what} {value:.3f}" for what, value in found.best_possible_auc.items()]
    yield f"Best possible AUC in the long run, by what a score may see: {'; '.join(best)}."
    if found.left_out:
        yield f"Not finished and left out: {', '.join(found.left_out)}."


def _areas(found: JudgedSeeds) -> Iterator[str]:
    yield line(["arm", "first phantom, external", "second phantom", "sd over seeds, second", "seeds"])
    yield "| --- | ---: | ---: | ---: | ---: |"
    for one in found.arms:
        cells = (one.arm, in_words(one.first), in_words(one.second), figure(one.second.sd, 3))
        yield line([*map(plain, cells), str(len(one.second.seeds))])


def _differences(found: JudgedSeeds) -> Iterator[str]:
    yield line([f"{FULL} less", "first phantom, external", "second phantom", "second, every seed"])
    yield "| --- | ---: | ---: | --- |"
    for one in found.differences:
        each = ", ".join(signed(value, 3) for value in one.second.each)
        yield line([plain(cell) for cell in (one.b, _delta(one.first), _delta(one.second), each)])


def _seeds(found: JudgedSeeds) -> Iterator[str]:
    yield line(["seed", "patients", "positive", "planted truth", "phantom", "scores.csv"])
    yield "| ---: | ---: | ---: | ---: | --- | --- |"
    for one in found.seeds:
        phantom, scores = one.digests.get("phantom", "")[:12], one.scores[:12]
        cells = (one.seed, one.patients, one.positives, figure(one.oracle_auc, 3), phantom, scores)
        yield line([plain(str(cell)) for cell in cells])


def in_words(one: Figure) -> str:
    """A mean over seeds with its interval."""
    return estimate(one.value, one.ci, 3) if one.value is not None else f"not defined: {one.reason}"


def _delta(one: Figure) -> str:
    if one.value is None or one.ci is None:
        return f"not defined: {one.reason}"
    return f"{signed(one.value, 3)} ({limits(one.ci, 3)})"
