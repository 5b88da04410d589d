"""One study under several conditions, its arms side by side: which arm is better than `full`, and where.

A condition is a folder of finished seeds; its figures are those that `combine` works out.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import fmean

from phcc_model.config import StudyConfig
from phcc_model.errors import ConfigError
from phcc_server.report.canvas import canvas
from phcc_server.report.table import line, plain
from phcc_server.report.wording import DASH, estimate, signed, split_title
from phcc_simulation.proof.claims import FULL
from phcc_simulation.proof.configuration import differing
from phcc_simulation.proof.drawing import Drawing, above, finish, intervals
from phcc_simulation.proof.schema import Combined, Figure, Work
from phcc_simulation.proof.text import difference, works


@dataclass(frozen=True)
class Condition:
    """The seeds of a study under one condition.

    Attributes:
        name: of its folder.
        study: of one of its seeds.
        found: what its seeds say together.
    """

    name: str
    study: StudyConfig
    found: Combined

    def delta(self, arm: str) -> Figure | None:
        """`arm` less `full`: above 0 the arm is better; None where it was not run."""
        one = self.found.delta(FULL, arm, self.found.split)
        if one is None or one.value is None:
            return one
        turned = None if one.ci is None else (-one.ci[1], -one.ci[0])
        update = {"value": -one.value, "ci": turned, "each": tuple(-d for d in one.each)}
        return one.model_copy(update=update | {"share_above_zero": None})


def refuse_names(names: Sequence[str]) -> None:
    """See that conditions can be told apart; asked before anything is worked out.

    Raises:
        ConfigError: there is one only, or two are of one name.
    """
    if len(set(names)) < max(2, len(names)):
        raise _unlike("a comparison needs two folders or more, each of another name")


def refuse_unlike(conditions: Sequence[Condition]) -> None:
    """See that there is something to hold side by side.

    Raises:
        ConfigError: they are not of one study, or one has no arm beside `full`.
    """
    first = conditions[0]
    for one in conditions[1:]:
        if (one.study.name, one.found.split) != (first.study.name, first.found.split):
            raise _unlike(
                f"{one.name} is of {one.study.name}, judged on the {split_title(one.found.split)}; "
                f"{first.name} is of {first.study.name}, on the {split_title(first.found.split)}"
            )
    for one in conditions:
        if one.found.auc(FULL, one.found.split) is None or len(one.found.names) < 2:
            raise _unlike(f"{one.name} has not both {FULL} and another arm")


def _unlike(what: str) -> ConfigError:
    remedy = f"Name folders of seeds of one study, each under another condition, with {FULL} and other arms"
    return ConfigError(what, where="phcc-simulate compare", remedy=remedy)


def comparison(conditions: Sequence[Condition]) -> str:
    """The page.

    Args:
        conditions: at least two, of one study.
    """
    first = conditions[0]
    kind = ", synthetic data" if _synthetic(conditions) else ""
    names = ", ".join(one.name for one in conditions)
    parts = [f"# {plain(first.found.study)} under {len(conditions)} conditions: {plain(names)}{kind}"]
    parts.append("\n".join(f"{n}. {plain(text)}" for n, text in enumerate(_headlines(conditions), 1)))
    parts += [
        f"## Each arm less {FULL}, {split_title(first.found.split)}{kind}",
        "\n".join(_table(conditions)),
    ]
    parts += [f"![each arm less {FULL}](comparison.svg)"]
    parts += [f"## What an arm costs{kind}", "\n".join(works(_costs(conditions)))]
    parts.append("Every number stands in `comparison.json`.")
    return "\n\n".join(parts) + "\n"


def picture(conditions: Sequence[Condition]) -> Drawing:
    """Each arm less `full`, one mark a condition."""
    rows = {arm: [one.delta(arm) for one in conditions] for arm in _arms(conditions)}
    found = conditions[0].found
    name = f"Each arm less {FULL}{', synthetic' if _synthetic(conditions) else ''}"
    with canvas(height=1.3 + 0.12 * len(conditions) * len(rows)) as sheet:
        axes = sheet.panels[0]
        intervals(axes, rows, [one.name for one in conditions], undefined=0.0)
        axes.axvline(0.0, color="#444444", linewidth=1.0)
        axes.set_xlabel(f"difference of AUC, {split_title(found.split)}")
        above(sheet.figure, name)
        sheet.figure.legend(*axes.get_legend_handles_labels(), loc="outside lower left", ncols=3)
        caption = (
            f"Right of 0 the arm is better than {FULL}; bars are {100 * found.confidence:.0f} % intervals."
        )
        return finish(sheet.figure, sheet.picture("comparison", name, caption))


def _headlines(conditions: Sequence[Condition]) -> Iterator[str]:
    for one in conditions:
        seeds = ", ".join(str(seed.seed) for seed in one.found.seeds)
        changed = "; ".join(
            dict.fromkeys(key for other in conditions for key in differing(one.study, other.study))
        )
        area = one.found.auc(FULL, one.found.split)
        reached = DASH if area is None else estimate(area.value, area.ci, 3)
        yield f"{one.name} ({changed or 'the same study'}; seeds {seeds}): {FULL} reaches an AUC of {reached}."
    for what, judge in (("Better", _above), ("Worse", _below)):
        told = [
            f"{arm} ({', '.join(where)})"
            for arm in _arms(conditions)
            if (where := [one.name for one in conditions if judge(one.delta(arm))])
        ]
        yield f"{what} than {FULL}, by an interval that leaves out 0: {'; '.join(told) or 'no arm'}."
    if noise := list(_otherwise_rounded(conditions)):
        yield (
            f"Otherwise rounded on its way, and else the same method as {FULL}: {'; '.join(noise)}. "
            "So much do two trainings differ by chance, whatever their intervals say: what differs by no more "
            "is no finding."
        )
    yield (
        "Intervals are of seeds and patients of one condition; nothing is corrected for the number of "
        "comparisons. The mean over conditions has none: they share patients."
    )


def _otherwise_rounded(conditions: Sequence[Condition]) -> Iterator[str]:
    """How far arms that differ from `full` in the wire's coding alone are from it."""
    for arm in ("fp32", "fp16", "int8"):
        for one in conditions:
            delta = one.delta(arm)
            if delta is not None and delta.value is not None:
                yield f"{arm} {_cell(delta)} ({one.name})"


def _table(conditions: Sequence[Condition]) -> Iterator[str]:
    yield line(["arm", *(plain(one.name) for one in conditions), "mean"])
    yield f"| --- |{' ---: |' * (len(conditions) + 1)}"
    for arm in _arms(conditions):
        found = [one.delta(arm) for one in conditions]
        known = [one.value for one in found if one is not None and one.value is not None]
        mean = f"{signed(fmean(known), 3)} of {len(known)}" if known else DASH
        yield line([plain(arm), *map(_cell, found), mean])


def _costs(conditions: Sequence[Condition]) -> list[Work]:
    """What an arm costs, mean over the conditions that ran it."""
    every = [work for one in conditions for work in one.found.works]
    by_arm = {arm: [work for work in every if work.arm == arm] for arm in dict.fromkeys(w.arm for w in every)}
    return [
        same[0].model_copy(
            update={
                key: fmean(getattr(work, key) for work in same)
                for key in ("bytes_up", "bytes_down", "seconds")
            }
        )
        for same in by_arm.values()
    ]


def _arms(conditions: Sequence[Condition]) -> tuple[str, ...]:
    """All arms but `full`, in the order of the first condition that has them."""
    every = (arm for one in conditions for arm in one.found.names if one.delta(arm) is not None)
    return tuple(dict.fromkeys(every))


def _cell(one: Figure | None) -> str:
    return DASH if one is None else difference(one)


def _synthetic(conditions: Sequence[Condition]) -> bool:
    return any(one.found.synthetic for one in conditions)


def _above(one: Figure | None) -> bool:
    return one is not None and one.ci is not None and one.ci[0] > 0.0


def _below(one: Figure | None) -> bool:
    return one is not None and one.ci is not None and one.ci[1] < 0.0
