"""The surest mistakes as one HTML page that stands alone: no script, no font, no request.

It shows patients' images, and so stays in the hospital.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from jinja2 import Environment, StrictUndefined

from phcc_client.mistakes import Look, Mistake, auc_line, counts_line, ranking_line
from phcc_client.overlay import slice_png
from phcc_client.prediction.result import NOT_FOR_DIAGNOSIS
from phcc_client.preparations import open_prepared
from phcc_model.config import StudyConfig
from phcc_model.errors import DataError, StorageError
from phcc_model.outcome import outcome_of

TEMPLATE = "mistakes.html.j2"
NOTICE = "Research use only; stays at this hospital"
TESTED = (
    "These patients are the study's test. Whoever changes labels, images or settings after looking at them needs "
    "other patients to test on."
)


@dataclass(frozen=True)
class About:
    """What the page is about.

    Attributes:
        hospital: whose patients they are.
        asked: the study as it came in.
        study: what its arm runs: phases, crop.
        digest: of the study.
        arm: of the study.
        named: whether a person named the threshold.
    """

    hospital: str
    asked: StudyConfig
    study: StudyConfig
    digest: str
    arm: str
    named: bool

    @property
    def kind(self) -> str:
        """What stands before each figure where the cases are computed and nobody's."""
        return "synthetic " if self.study.data.source == "phantom" else ""


@dataclass(frozen=True)
class Picture:
    """A case's lesion in all phases as PNG, or why there is none."""

    png: bytes | None
    why_not: str = ""

    @property
    def uri(self) -> str:
        """The picture as text."""
        return f"data:image/png;base64,{base64.b64encode(self.png or b'').decode('ascii')}"


def pictures(site: Path, about: About, mistakes: Sequence[Mistake]) -> dict[str, Picture]:
    """The lesion's middle slice of each mistake, all phases of the study, the lesion outlined.

    Args:
        site: the hospital's folder of prepared cases.
        about: the hospital, the study and its arm.
        mistakes: whose pictures are wanted.

    Returns:
        By case. Where the cases cannot be read any more, the reason stands in a picture's place.
    """
    if not mistakes:
        return {}
    try:
        cases = open_prepared(site, about.study, about.hospital, about.asked).load("test")
    except (DataError, StorageError) as error:
        return dict.fromkeys((one.scored.case for one in mistakes), Picture(None, f"No picture: {error}"))
    data = about.study.data
    at = {case: number for number, case in enumerate(cases.case)}
    gone = Picture(None, "No picture: this case is not among the prepared test cases any more.")
    return {
        case: Picture(
            slice_png(
                cases.volumes_npdhw[at[case]],
                cases.lesion_ndhw[at[case]],
                data.phases,
                cases.present_np[at[case]],
                spacing_mm=data.crop.spacing_mm,
            )
        )
        if case in at
        else gone
        for case in (one.scored.case for one in mistakes)
    }


def render_page(about: About, seen: Look, drawn: Mapping[str, Picture]) -> str:
    """The page as text; the same input gives the same text. Everything in it is escaped.

    Args:
        about: the study and the hospital.
        seen: the mistakes.
        drawn: a picture for each of them, by case.
    """
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    source = resources.files("phcc_client").joinpath(TEMPLATE).read_text(encoding="utf-8")
    return environment.from_string(source).render(
        about=about,
        seen=seen,
        drawn=drawn,
        notice=NOTICE,
        not_for_diagnosis=NOT_FOR_DIAGNOSIS,
        event=outcome_of(about.study.data).event,
        counts=counts_line(seen),
        auc=auc_line(seen),
        ranking=ranking_line(seen, about.named),
        tested=TESTED,
    )
