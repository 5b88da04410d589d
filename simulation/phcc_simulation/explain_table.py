"""What the maps of many patients come to: a row for the trained network, one for each way of drawing it anew."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from phcc_model.explain_measures import Interval, mean_interval, ratio_interval
from phcc_model.seeds import generator
from phcc_simulation.explain import MOVED, TRAINED, Measured

WANTED_CONCENTRATION, WANTED_OVER_RANDOM, WANTED_MOVED = 3.0, 2.0, 2.0
"""What is asked: within the lesion so many times its share of the volume, so many times the share that networks
of random weights have there, and so many times its share after the images were moved, where a map that points at
the middle of the crop has once or less."""


@dataclass(frozen=True)
class Row:
    """One network's maps, over patients, with 95 % bootstrap intervals over patients.

    The intervals do not hold how much networks of random weights differ from draw to draw, which is a lot.

    Attributes:
        empty: maps in which nothing speaks for the positive class; they have no place and do not count below.
        maps: how many there were.
        mass: share of the map within the lesion.
        concentration: that share over the lesion's share of the volume, the mean of the patients' ratios.
        mass_with_rim: share within the lesion and its rim.
        concentration_with_rim: the same for these.
        pointing: share of maps whose strongest place lies in the lesion or its rim.
        alike: correlation with the trained network's map.
        trained_over_this: mean mass within the lesion of the trained network over that of this one.
    """

    network: str
    maps: int
    empty: int
    mass: Interval
    concentration: Interval
    mass_with_rim: Interval
    concentration_with_rim: Interval
    pointing: Interval
    alike: Interval
    trained_over_this: Interval


def tabulate(measured: Sequence[Measured], seed: int) -> list[Row]:
    """The rows, the trained network first.

    Args:
        measured: of all networks, the trained one among them.
        seed: of the bootstrap.
    """
    names = list(dict.fromkeys(one.network for one in measured))
    patients = sorted({one.patient for one in measured})
    return [_row(name, measured, patients, seed) for name in names]


def verdict(rows: Sequence[Row]) -> dict[str, Any]:
    """Whether the maps do what is asked of them, in words and figures."""
    moved = next((row for row in rows if row.network == MOVED), None)
    asked = (
        ("concentration", rows[0].concentration.value, WANTED_CONCENTRATION),
        ("over_random", rows[-1].trained_over_this.value, WANTED_OVER_RANDOM),
        ("moved", None if moved is None else moved.concentration.value, WANTED_MOVED),
    )
    return {
        "wanted": f"at least {WANTED_CONCENTRATION:g} times the lesion's share of the volume, at least "
        f"{WANTED_OVER_RANDOM:g} times the share that networks of random weights have there, and with the images "
        f"moved at least {WANTED_MOVED:g} times the lesion's share",
        **{name: value for name, value, _ in asked},
        "reached": all(value is not None and value >= wanted for _, value, wanted in asked),
    }


def as_plain(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """The rows as JSON takes them."""
    return [asdict(row) for row in rows]


def _row(name: str, measured: Sequence[Measured], patients: Sequence[str], seed: int) -> Row:
    own = [one for one in measured if one.network == name]
    trained = [one for one in measured if one.network == TRAINED]

    def over(value: Callable[[Measured], float | None], of: Sequence[Measured] = own) -> NDArray[np.float64]:
        return _by_patient(of, value, patients)

    def interval(what: str, value: Callable[[Measured], float | None]) -> Interval:
        return mean_interval(over(value), generator(seed, "explain", name, what))

    def mass(one: Measured) -> float | None:
        return one.lesion.mass

    return Row(
        network=name,
        maps=len(own),
        empty=sum(one.lesion.mass is None for one in own),
        mass=interval("mass", mass),
        concentration=interval("concentration", lambda one: one.lesion.concentration),
        mass_with_rim=interval("rim mass", lambda one: one.with_rim.mass),
        concentration_with_rim=interval("rim", lambda one: one.with_rim.concentration),
        pointing=interval("pointing", lambda one: _number(one.with_rim.pointed)),
        alike=interval("alike", lambda one: one.alike),
        trained_over_this=ratio_interval(
            over(mass, trained), over(mass), generator(seed, "explain", name, "ratio")
        ),
    )


def _number(value: bool | None) -> float | None:
    return None if value is None else float(value)


def _by_patient(
    measured: Sequence[Measured], value: Callable[[Measured], float | None], patients: Sequence[str]
) -> NDArray[np.float64]:
    """Mean over each patient's cases and draws that have a value; NaN where none has."""
    found: dict[str, list[float]] = {patient: [] for patient in patients}
    for one in measured:
        number = value(one)
        if number is not None:
            found[one.patient].append(number)
    return np.array([np.mean(found[p]) if found[p] else np.nan for p in patients], dtype=np.float64)
