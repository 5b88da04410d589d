"""``rats.md``: the rats' study for people, on one page."""

from __future__ import annotations

from collections.abc import Iterator

from phcc_server.report.table import line, plain
from phcc_server.report.wording import DASH, duration, estimate, figure, limits, signed
from phcc_simulation.real.rats_schema import BASELINE, ArmAtCentre, HeldOut, RatsResult


def rats_page(found: RatsResult, command: str) -> str:
    """The page.

    Args:
        found: the figures.
        command: what was called.
    """
    parts = [
        "# Rats' liver curves: was uptake inhibited? One centre left out",
        _lead(found),
        "\n".join(_table(found)),
        _reading(found),
        "## Data\n\n" + "\n".join(_centres(found)),
        *([_aside(found)] if found.aside else []),
        "## What was run\n\n" + "\n".join(_run(found, command)),
    ]
    return "\n\n".join(parts) + "\n"


def _lead(found: RatsResult) -> str:
    scans = sum(one.facts.scans for one in found.held_out)
    animals = sum(one.facts.animals for one in found.held_out)
    return (
        f"Real data (TRISTAN, CC BY 4.0): {scans} gadoxetate scans of {animals} rats. Label: whether rifampicin "
        "or ciclosporin was given, which inhibit hepatic uptake, or anything else. Each centre listed is held "
        "out whole; settings are chosen, and everything is fitted, on animals of the other centres. The head is "
        "the project's own (CaseNorm, dynamic features, attention over time), one token a minute; the baseline "
        "is scikit-learn's logistic regression on the same curves over their pre-contrast mean."
    )


def _table(found: RatsResult) -> Iterator[str]:
    yield line(
        [
            "held out",
            "score",
            "AUC, mean of seeds",
            "seeds from – to",
            "AUC of their mean score",
            "less baseline",
        ]
    )
    yield "| --- | --- | ---: | ---: | ---: | ---: |"
    for one in found.held_out:
        for arm in one.arms:
            yield line([plain(cell) for cell in (one.facts.centre, arm.arm, *_cells(arm))])


def _cells(arm: ArmAtCentre) -> tuple[str, str, str, str]:
    spread = f"{min(arm.seeds):.3f} – {max(arm.seeds):.3f}" if len(arm.seeds) > 1 else DASH
    area = estimate(arm.auc, arm.ci, 3) if arm.auc is not None else f"not defined: {arm.reason}"
    against = DASH
    if arm.arm != BASELINE and arm.against is not None:
        alike = arm.against_ci == (0.0, 0.0)
        against = "ranks alike" if alike else f"{signed(arm.against, 3)} ({limits(arm.against_ci, 3)})"
    return figure(arm.mean, 3), spread, area, against


def _reading(found: RatsResult) -> str:
    few = [f"{one.facts.centre} {one.facts.inhibited}" for one in found.held_out if one.facts.inhibited < 10]
    text = (
        f"Intervals: {100 * found.confidence:.0f} %, over animals (DeLong on the logit, by animal; Newcombe's "
        "where the classes are parted completely); they say nothing about other centres. Seeds differ in the "
        "head's first weights and what is drawn in training; the baseline draws nothing."
    )
    if few:
        text += (
            f" Scans with an inhibitor are few ({', '.join(few)}): there an AUC of 1 is a handful of scans, and "
            "no difference between scores can be seen."
        )
    return text


def _centres(found: RatsResult) -> Iterator[str]:
    yield line(["centre", "scans", "animals", "inhibited", "settings chosen", "by: AUC, log loss", "studies"])
    yield "| --- | ---: | ---: | ---: | --- | ---: | --- |"
    for one in found.held_out:
        facts = one.facts
        area, loss = one.choice[one.chosen]
        numbers = [str(n) for n in (facts.scans, facts.animals, facts.inhibited)]
        studies = ", ".join(name.removeprefix("tristan_rats_") for name in facts.studies)
        yield line(
            [
                plain(cell)
                for cell in (facts.centre, *numbers, _chosen(found, one), f"{area:.3f}, {loss:.3f}", studies)
            ]
        )


def _chosen(found: RatsResult, one: HeldOut) -> str:
    settings = found.candidates[one.chosen]
    return f"rounds {settings['rounds']}, gain {settings['gain']}"


def _aside(found: RatsResult) -> str:
    listed = "\n".join(f"- {plain(name)}: {plain(reason)}" for name, reason in found.aside)
    return f"Set aside, {len(found.aside)} scans:\n\n{listed}"


def _run(found: RatsResult, command: str) -> Iterator[str]:
    first = found.candidates[0]
    varied = ("rounds", "gain")
    same = ", ".join(f"{key} {value}" for key, value in first.items() if key not in (*varied, "classifier"))
    head = first["classifier"]
    yield f"- Command: `{command}`; it took {duration(found.seconds)}"
    yield f"- Seeds: {', '.join(map(str, found.seeds))}"
    yield f"- Tokens: minutes {found.minutes[0]} to {found.minutes[-1]} after the bolus, interpolated"
    yield (
        f"- Head: features {', '.join(head['features'])}; fusion {head['fusion']}, width {head['width']}, layers "
        f"{head['layers']}, heads {head['heads']}, dropout {head['dropout']}; {same}"
    )
    yield "- Candidates: " + "; ".join(f"rounds {c['rounds']}, gain {c['gain']}" for c in found.candidates)
    yield f"- Inhibitors: {', '.join(found.inhibitors)}; the others: {', '.join(found.others)}"
    yield f"- Versions: {', '.join(f'{name} {version}' for name, version in found.versions.items())}"
    yield f"- SHA-256: data `{found.data}`, study `{found.study}`, scores.csv `{found.scores}`"
