"""The prediction as one HTML page that stands alone and prints on one sheet: no script, no font, no request."""

from __future__ import annotations

import base64
from importlib import resources

from jinja2 import Environment, StrictUndefined

from phcc_client.prediction import wording
from phcc_client.prediction.result import NOT_FOR_DIAGNOSIS, NOTICE, Prediction

TEMPLATE = "predict.html.j2"


def render_page(prediction: Prediction, overlay_png: bytes) -> str:
    """The page as text; the same input gives the same text. Everything in it is escaped.

    Args:
        prediction: what it says.
        overlay_png: the heat maps' picture.
    """
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    source = resources.files("phcc_client.prediction").joinpath(TEMPLATE).read_text(encoding="utf-8")
    return environment.from_string(source).render(
        p=prediction,
        title=wording.title(prediction),
        notice=NOTICE,
        not_for_diagnosis=NOT_FOR_DIAGNOSIS,
        lesion=wording.lesion_line(prediction.lesion),
        figures=wording.figures(prediction),
        verdict=wording.verdict_words(prediction),
        warnings=wording.warning_lines(prediction),
        unchecked=wording.unchecked_line(prediction),
        phase_header=wording.PHASE_HEADER,
        phase_rows=wording.phase_rows(prediction),
        limits=wording.LIMITS,
        origin=wording.origin_lines(prediction),
        overlay=base64.b64encode(overlay_png).decode(),
    )
