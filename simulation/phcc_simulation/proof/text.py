"""``combined.md``: what the seeds say together, for people: ten lines, the claims, the tables."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich.table import Table
from rich.text import Text

from phcc_server.report.schema import EXTERNAL, INTERNAL
from phcc_server.report.table import line, plain
from phcc_server.report.wording import DASH, duration, estimate, figure, limits, signed, size, split_title
from phcc_simulation.proof.claims import CEILING, FULL, best_of, pretrained_alone, without_pretraining
from phcc_simulation.proof.schema import (
    HOLDS,
    NOT,
    NOT_DEFINED,
    NOT_RUN,
    ON_AVERAGE,
    Claim,
    Combined,
    Figure,
    Work,
)


def title(found: Combined) -> str:
    """What it is; that data are synthetic is never left out."""
    count = len(found.seeds)
    kind = ", synthetic data" if found.synthetic else ""
    return f"{found.study}: {count} seed{'' if count == 1 else 's'} together{kind}"


def headlines(found: Combined) -> list[str]:
    """What came out, in ten lines at most."""
    synthetic = "Synthetic data: no figure here says anything about patients. " if found.synthetic else ""
    seeds = ", ".join(str(one.seed) for one in found.seeds)
    left = f"; not finished and left out: {', '.join(found.left_out)}" if found.left_out else ""
    lines = [f"{synthetic}Seeds {seeds}; a seed stands for {_of_a_seed(found)}other first weights{left}."]
    lines += [f"The internal test is {found.test}."] if found.test else []
    lines += _of_full(found)
    lines += [text for other in _rivals(found) if (text := _against(found, other)) is not None]
    lines.append(_verdicts(found.claims))
    lines.append(method(found))
    return lines


def _of_a_seed(found: Combined) -> str:
    """What is another one with another seed, beside the first weights."""
    if found.same_test:
        dealt_anew = len({one.splits for one in found.seeds}) > 1
        return "another share of the same training patients to centres and " if dealt_anew else ""
    return "another split of the same patients and " if found.same_patients else "other patients and "


def method(found: Combined) -> str:
    """How the intervals were made."""
    text = (
        f"Intervals: {100 * found.confidence:.0f} %, {found.bootstrap}, {found.replicates} replicates; "
        "arms are compared on the same patients of the same seeds, and nothing is corrected for the number of "
        "comparisons."
    )
    if found.same_test:
        text += f" Every seed is judged on the same patients of the {split_title(found.split)}."
    elif found.same_patients:
        text += " The seeds share patients, who are taken for different ones: the intervals are too narrow."
    if len(found.seeds) == 1:
        text += " With one seed only its patients vary: the interval says nothing about seeds."
    return text


def markdown(found: Combined, captions: Sequence[tuple[str, str, str]], configuration: str = "") -> str:
    """The whole page.

    Args:
        found: the figures.
        captions: of each picture: its file, title and caption.
        configuration: what was run, as Markdown; empty: nothing is said of it.
    """
    parts = [
        f"# {plain(title(found))}",
        "\n".join(f"{n}. {plain(t)}" for n, t in enumerate(headlines(found), 1)),
    ]
    parts += [f"## Claims, {split_title(found.split)}{_kind(found)}", "\n".join(_claims(found.claims))]
    parts += [f"## AUC, mean over seeds{_kind(found)}", "\n".join(_areas(found))]
    if found.differences:
        parts += [f"## {FULL} less each arm{_kind(found)}", "\n".join(_differences(found))]
    if len(pretrained := list(_pretraining(found))) > 3:
        parts += [f"## With less without pre-training{_kind(found)}", "\n".join(pretrained)]
    if found.works:
        parts += [f"## What an arm costs{_kind(found)}", "\n".join(works(found.works))]
    if len(together := list(_together(found))) > 2:
        parts += [f"## Pre-trained by all centres less by one's own{_kind(found)}", "\n".join(together)]
    for file, name, caption in captions:
        parts += [f"## {plain(name)}", f"![{plain(name)}]({file})", plain(caption)]
    parts += ["## Configuration", configuration] if configuration else []
    parts += ["## Seeds", "\n".join(_seeds(found))]
    versions = ", ".join(f"{name} {version}" for name, version in found.combined_with.items())
    parts.append(f"Combined with {versions}. Every number stands in `combined.json`.")
    return "\n\n".join(parts) + "\n"


def _of_full(found: Combined) -> Iterator[str]:
    outside, inside = found.auc(FULL, EXTERNAL), found.auc(FULL, INTERNAL)
    if outside is None or inside is None:
        yield f"The arm {FULL} was not run: arms stand in the table, and no claim can be judged."
        return
    told = {EXTERNAL: f"{auc_in_words(outside)} external", INTERNAL: f"{auc_in_words(inside)} internal"}
    yield f"{FULL}: mean AUC {', '.join(told[split] for split in reversed(found.tests))}."
    best = found.best_possible_auc.get(CEILING)
    if best is not None and outside.value is not None:
        share = 100 * outside.value / best
        yield (
            f"The best possible AUC of the images alone is {best:.3f}; {FULL} reaches {share:.1f} % "
            "of it on the external centre."
        )


def _rivals(found: Combined) -> list[str]:
    """The arms that a reader asks for first; the rest stand in the tables."""
    single, alone = best_of(found, "phase:"), best_of(found, "local:")
    return [arm for arm in ("no-pretraining", single, "afp", "pooled", alone) if arm is not None]


def _against(found: Combined, other: str) -> str | None:
    outside, inside = found.delta(FULL, other, EXTERNAL), found.delta(FULL, other, INTERNAL)
    if outside is None or inside is None:
        return None
    told = {EXTERNAL: f"{difference(outside)} external", INTERNAL: f"{difference(inside)} internal"}
    return f"{FULL} − {other}: {', '.join(told[split] for split in reversed(found.tests))}."


def _verdicts(claims: Sequence[Claim]) -> str:
    judged = [claim for claim in claims if claim.verdict not in (NOT_RUN, NOT_DEFINED)]
    if not judged:
        return "No claim could be judged."
    lacking = {verdict: [c.claim for c in judged if c.verdict == verdict] for verdict in (NOT, ON_AVERAGE)}
    hold = len(judged) - sum(map(len, lacking.values()))
    text = f"{hold} of {len(judged)} claims that could be judged hold"
    missing = len(claims) - len(judged)
    text += f" ({missing} could not)" if missing else ""
    return (
        text
        + "".join(f"; {verdict}: {', '.join(names)}" for verdict, names in lacking.items() if names)
        + "."
    )


def _claims(claims: Sequence[Claim]) -> Iterator[str]:
    yield line(["claim", "wanted", "found", "holds?"])
    yield "| --- | --- | ---: | --- |"
    for claim in claims:
        verdict = f"{claim.verdict} ({claim.note})" if claim.note else claim.verdict
        yield line([plain(cell) for cell in (claim.claim, claim.wanted, found_in_words(claim), verdict)])


def claims_table(found: Combined) -> Table:
    """The claims for a terminal."""
    table = Table(title=Text(f"Claims, {split_title(found.split)}{_kind(found)}"), title_justify="left")
    for name in ("claim", "wanted", "found", "holds?"):
        table.add_column(name, overflow="fold")
    for claim in found.claims:
        style = "" if claim.verdict == HOLDS else "dim" if claim.verdict in (NOT_RUN, NOT_DEFINED) else "bold"
        cells = (claim.claim, claim.wanted, found_in_words(claim))
        table.add_row(*map(Text, cells), Text(claim.verdict, style=style))
    return table


def found_in_words(claim: Claim) -> str:
    """A claim's figure with its interval, or what the seeds reach from and to."""
    if claim.found is None:
        return DASH
    scale, digits = (100.0, 1) if claim.percent else (1.0, 3)
    value = f"{100 * claim.found:.1f} %" if claim.percent else signed(claim.found, digits)
    if claim.ci is not None:
        return f"{value} ({limits((scale * claim.ci[0], scale * claim.ci[1]), digits)})"
    if claim.spread is not None:
        low, high = claim.spread
        return f"{value} (seeds {limits((scale * low, scale * high), digits)})"
    return value


def _areas(found: Combined) -> Iterator[str]:
    yield line(["arm", *found.tests, f"sd over seeds, {found.split}", "seeds"])
    yield f"| --- |{' ---: |' * (len(found.tests) + 2)}"
    for arm in found.names:
        areas = {split: area for split in found.tests if (area := found.auc(arm, split)) is not None}
        judged = areas[found.split]
        cells = [*map(auc_in_words, areas.values()), figure(judged.sd, 3), str(len(judged.seeds))]
        yield line([plain(cell) for cell in (arm, *cells)])
    for what, best in found.best_possible_auc.items():
        yield line([f"best possible, {plain(what)}", *[f"{best:.3f}"] * len(found.tests), "", ""])


def _differences(found: Combined) -> Iterator[str]:
    yield line([f"{FULL} less", *found.tests, f"{found.split}, every seed"])
    yield f"| --- |{' ---: |' * len(found.tests)} --- |"
    for arm in found.names:
        yield from _row(found, arm, FULL, arm)


def _pretraining(found: Combined) -> Iterator[str]:
    """What pre-training adds to `full` and to each change of it."""
    yield line(["with less without", *found.tests, f"{found.split}, every seed"])
    yield f"| --- |{' ---: |' * len(found.tests)} --- |"
    for arm in found.names:
        yield from _row(found, arm, arm, without_pretraining(arm))


def _together(found: Combined) -> Iterator[str]:
    """What the others' images add in stage 1 to a centre that fine-tunes alone."""
    yield line(["fine-tuned alone", *found.tests, f"{found.split}, every seed"])
    yield f"| --- |{' ---: |' * len(found.tests)} --- |"
    for arm in found.names:
        if (other := pretrained_alone(arm)) is not None:
            yield from _row(found, f"{arm} − {other}", arm, other)


def _row(found: Combined, name: str, a: str, b: str) -> Iterator[str]:
    """A row of differences, where these two arms were compared."""
    deltas = {split: delta for split in found.tests if (delta := found.delta(a, b, split)) is not None}
    if deltas:
        each = ", ".join(signed(one, 3) for one in deltas[found.split].each) or DASH
        yield line([plain(cell) for cell in (name, *map(difference, deltas.values()), each)])


def works(found: Sequence[Work]) -> Iterator[str]:
    """What federated arms cost; both stages, by a site."""
    yield line(["arm", "rounds", "local epochs", "from a site", "to a site", "time of all rounds"])
    yield "| --- | --- | --- | ---: | ---: | ---: |"
    for one in found:
        stages = [" + ".join(map(str, pair)) for pair in (one.rounds, one.local_epochs)]
        yield line([plain(one.arm), *stages, size(one.bytes_up), size(one.bytes_down), duration(one.seconds)])


def _seeds(found: Combined) -> Iterator[str]:
    yield line(["seed", "patients", "training", "package", "study", "splits", "phantom", "scores.csv"])
    yield "| ---: | ---: | ---: | --- | --- | --- | --- | --- |"
    for one in found.seeds:
        digests = [(d or DASH)[:12] for d in (one.study, one.splits, one.phantom, one.scores)]
        facts = [str(one.seed), str(one.patients), duration(one.seconds), one.package or DASH]
        yield line([*facts, *digests])
    yield ""
    yield "Digests are the beginning of SHA-256; whole in `combined.json`."


def _kind(found: Combined) -> str:
    return ", synthetic data" if found.synthetic else ""


def auc_in_words(one: Figure) -> str:
    """An AUC with its interval, or why there is none."""
    return estimate(one.value, one.ci, 3) if one.value is not None else f"not defined: {one.reason}"


def difference(one: Figure) -> str:
    """A difference with its interval, or why there is none."""
    if one.value is None or one.ci is None:
        return f"not defined: {one.reason}"
    return f"{signed(one.value, 3)} ({limits(one.ci, 3)})"
