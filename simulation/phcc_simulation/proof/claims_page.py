"""One page over several studies: what each says of every claim, side by side."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from phcc_model.errors import ConfigError, StorageError
from phcc_model.storage import storage_error
from phcc_server.report.table import line, plain
from phcc_server.report.wording import DASH, estimate, split_title
from phcc_simulation.proof.claims import FULL, without_pretraining
from phcc_simulation.proof.schema import HOLDS, ON_AVERAGE, Claim, Combined
from phcc_simulation.proof.text import difference, found_in_words

COMBINED = "combined.json"


@dataclass(frozen=True)
class Told:
    """What one study says: the name of its folder, and its figures."""

    name: str
    found: Combined


def read_told(folder: Path) -> Told:
    """A study's figures, as ``phcc-simulate combine`` left them.

    Raises:
        StorageError: they are not there, cannot be read, or are of another version.
    """
    path = folder / COMBINED
    remedy = "Run phcc-simulate combine on the folder of its seeds"
    try:
        return Told(folder.name, Combined.model_validate_json(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        raise StorageError("the study's figures are not there", where=str(path), remedy=remedy) from None
    except (ValidationError, UnicodeDecodeError) as error:
        raise StorageError("does not hold a study's figures", where=str(path), remedy=remedy) from error
    except OSError as error:
        raise storage_error(path, error) from error


def claims_page(told: Sequence[Told]) -> str:
    """The table as Markdown; a claim that holds is bold, one that holds on average only in italics.

    Args:
        told: studies, in the order of the columns.

    Raises:
        ConfigError: two studies have one name, or they are judged on different splits.
    """
    _refuse_unlike(told)
    first = told[0].found
    kind = ", synthetic data" if any(one.found.synthetic for one in told) else ""
    columns = [f"{one.name}, seeds {_range(one.found)}" for one in told]
    rows = [line(["claim", "wanted", *map(plain, columns)]), f"| --- | --- |{' ---: |' * len(told)}"]
    rows.append(line([f"{FULL}, AUC", "", *(_area(one.found) for one in told)]))
    for name, wanted in dict.fromkeys((c.claim, c.wanted) for one in told for c in one.found.claims):
        rows.append(line([plain(name), plain(wanted), *(_cell(_claim(one.found, name)) for one in told)]))
    for arm in dict.fromkeys(arm for one in told for arm in _fewer(one.found)):
        cells = [_delta(one.found, arm) for one in told]
        rows.append(line([f"{plain(arm)} − {plain(without_pretraining(arm))}", "", *cells]))
    parts = [f"# Claims, {split_title(first.split)}{kind}", "\n".join(rows)]
    parts.append("Bold: holds. Italics: holds on average only. A dash: not run. " + _intervals(first))
    return "\n\n".join(parts) + "\n"


def _refuse_unlike(told: Sequence[Told]) -> None:
    where = "phcc-simulate claims"
    if len({one.name for one in told}) < len(told):
        raise ConfigError(
            "two folders are of one name", where=where, remedy="Name each as its column is to be called"
        )
    for one in told[1:]:
        if one.found.split != told[0].found.split:
            raise ConfigError(
                f"{one.name} is judged on the {split_title(one.found.split)}, "
                f"{told[0].name} on the {split_title(told[0].found.split)}",
                where=where,
                remedy="Name studies that are judged on the same kind of test",
            )


def _range(found: Combined) -> str:
    seeds = [one.seed for one in found.seeds]
    in_a_row = len(seeds) > 2 and seeds == list(range(seeds[0], seeds[-1] + 1))
    return f"{seeds[0]} to {seeds[-1]}" if in_a_row else ", ".join(map(str, seeds))


def _claim(found: Combined, name: str) -> Claim | None:
    return next((claim for claim in found.claims if claim.claim == name), None)


def _cell(claim: Claim | None) -> str:
    if claim is None or claim.found is None:
        return DASH
    words = plain(found_in_words(claim))
    mark = {HOLDS: "**", ON_AVERAGE: "*"}.get(claim.verdict, "")
    return f"{mark}{words}{mark}"


def _area(found: Combined) -> str:
    area = found.auc(FULL, found.split)
    return DASH if area is None else estimate(area.value, area.ci, 3)


def _fewer(found: Combined) -> Iterator[str]:
    """The arms that were run with and without pre-training, beside `full` itself."""
    for arm in found.names:
        if arm != FULL and found.delta(arm, without_pretraining(arm), found.split) is not None:
            yield arm


def _delta(found: Combined, arm: str) -> str:
    """What pre-training adds to an arm; on how many seeds, where the study has more."""
    one = found.delta(arm, without_pretraining(arm), found.split)
    if one is None:
        return DASH
    few = f", on {len(one.seeds)} of {len(found.seeds)} seeds" if len(one.seeds) < len(found.seeds) else ""
    return plain(difference(one)) + few


def _intervals(found: Combined) -> str:
    return f"Intervals: {100 * found.confidence:.0f} %, of seeds and patients."
