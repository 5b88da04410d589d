"""What a centre gains by taking part: its own test patients, scored by networks that it did and did not train.

Three ways to get a model: the centre *takes part* in the federation; it is *left out* and uses what the others
trained (leave one centre out); it trains *alone*. All three are judged on the same patients of the centre, those
of its test part where it takes part.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from phcc_model.errors import ConfigError
from phcc_server.report.evaluation import ScoredCase
from phcc_server.report.schema import EXTERNAL, INTERNAL
from phcc_simulation.proof.claims import FULL
from phcc_simulation.proof.configuration import differing
from phcc_simulation.proof.figures import Draws, auc_over, delta_over
from phcc_simulation.proof.runs import SeedRun
from phcc_simulation.proof.schema import Figure

TAKES_PART, LEFT_OUT, ALONE = WAYS = ("takes part", "left out", "alone")
PAIRS = ((TAKES_PART, LEFT_OUT), (TAKES_PART, ALONE), (LEFT_OUT, ALONE))
_LEAVE_OUT = "data.centres.leave_out="


@dataclass(frozen=True)
class AtCentre:
    """One centre's figures.

    Attributes:
        centre: its name.
        auc: by way, of `WAYS`; a way that was not run has none.
        gains: the AUC of one way less that of another, of `PAIRS`, on the same patients of the same seeds.
    """

    centre: str
    auc: dict[str, Figure]
    gains: dict[tuple[str, str], Figure]


def at_centre(whole: Sequence[SeedRun], without: Sequence[SeedRun], draws: Draws) -> AtCentre:
    """What the centre that `without` leaves out gains by taking part.

    Args:
        whole: seeds in which it takes part.
        without: seeds of the same study and the same patients, but for `data.centres.leave_out`.
        draws: how sure one wants to be.

    Raises:
        ConfigError: `without` leaves no one out who takes part, is of another study or other patients, or shares
            no seed; or the arm ``full`` was not run.
        DataError: a case has two labels.
    """
    centre = _left_out(whole[0], without[0])
    by_seed = {run.seed: run for run in without}
    runs = [_ways(run, by_seed[run.seed], centre) for run in whole if run.seed in by_seed]
    if not runs:
        raise _unlike(without[0], "has no seed that the first folder has")
    ways = [way for way in WAYS if any(way in run.arms for run in runs)]
    return AtCentre(
        centre,
        {way: auc_over(runs, way, INTERNAL, draws) for way in ways},
        {(a, b): delta_over(runs, a, b, INTERNAL, draws) for a, b in PAIRS if {a, b} <= set(ways)},
    )


def _left_out(whole: SeedRun, without: SeedRun) -> str:
    """The centre that is left out, where that is all in which two studies differ."""
    changes = differing(without.study, whole.study)
    others = [change for change in changes if not change.startswith(_LEAVE_OUT)]
    if others:
        raise _unlike(without, f"is of another study: {others[0]}")
    centre = without.study.data.centres.leave_out
    if centre is None or not changes:
        raise _unlike(without, "leaves out no centre that the first folder has")
    return centre


def _ways(whole: SeedRun, without: SeedRun, centre: str) -> SeedRun:
    """One seed with the ways as its arms, and of its patients the centre's own test part alone."""
    if whole.summary.digests.get("phantom") != without.summary.digests.get("phantom"):
        raise _unlike(without, f"holds other patients than {whole.folder.name} of the first folder")
    places = {
        TAKES_PART: (whole, FULL, INTERNAL),
        LEFT_OUT: (without, FULL, EXTERNAL),
        ALONE: (whole, f"local:{centre}", INTERNAL),
    }
    for run in (whole, without):
        if FULL not in run.arms:
            raise _unlike(run, f"has not the arm {FULL}")
    own = [key for key in whole.of(FULL, INTERNAL) if key[0] == centre]
    if not own:
        raise _unlike(without, f"leaves out {centre}, which does not take part in {whole.folder.name} either")
    rows: list[ScoredCase] = []
    arms = {}
    for way, (run, arm, split) in places.items():
        if arm in run.arms:
            found = run.of(arm, split)
            rows += [replace(found[key], arm=way, split=INTERNAL) for key in own if key in found]
            arms[way] = run.summary.arms[arm]
    return replace(
        whole, summary=whole.summary.model_copy(update={"arms": arms, "rounds": ()}), scored=tuple(rows)
    )


def _unlike(run: SeedRun, what: str) -> ConfigError:
    remedy = (
        "Name first the seeds in which all centres train, then folders of the same seeds with "
        "--set data.centres.leave_out=CENTRE, each with the arm full"
    )
    return ConfigError(what, where=str(run.folder), remedy=remedy)


def as_plain(one: AtCentre) -> dict[str, Any]:
    """A centre's figures as JSON has them."""
    return {
        "centre": one.centre,
        "auc": {way: figure.model_dump(mode="json") for way, figure in one.auc.items()},
        "gains": {f"{a} less {b}": figure.model_dump(mode="json") for (a, b), figure in one.gains.items()},
    }
