"""The page, the PDF and the picture: they say what they are, escape what they are given, and never change."""

from __future__ import annotations

import re
from html.parser import HTMLParser

import numpy as np
import pytest
from examples import picture_png, prediction

from phcc_client.prediction.page import render_page
from phcc_client.prediction.result import NOTICE, Caution, Prediction
from phcc_client.prediction.sheet import sheet_pdf, sheet_picture

STRANGE = "<script>alert(1)</script> & $x_1$ \u202e 漢字 \x07"
WARNINGS = tuple(Caution(code=f"c{n}", text=f"warning {n}. {'long ' * 30}", remedy="Look") for n in range(20))


class _Page(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.tags: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.links += [value or "" for name, value in attrs if name in ("src", "href")]


def test_the_page_stands_alone_and_says_what_it_is() -> None:
    text = render_page(prediction(), picture_png())
    page = _Page(text)
    assert text.count(NOTICE) >= 3
    assert "script" not in page.tags
    assert page.links
    assert all(link.startswith("data:image/png;base64,") for link in page.links)
    assert "PAT-0002" in text
    assert "0.499" in text
    assert "2023-04-05" in text


def test_what_a_header_says_is_escaped_on_the_page() -> None:
    text = render_page(prediction(patient=STRANGE, case=STRANGE), picture_png())
    assert "<script>" not in text
    assert "&lt;script&gt;" in text


@pytest.mark.parametrize(
    "one",
    [
        prediction(),
        prediction(patient=STRANGE, warnings=WARNINGS),
        prediction(recalibrated=False, verdict="negative", score=0.0, probability=0.0),
    ],
)
@pytest.mark.filterwarnings("error")
def test_the_pdf_is_one_page_and_the_same_every_time(one: Prediction) -> None:
    first = sheet_pdf(one, picture_png())
    assert first.startswith(b"%PDF")
    assert len(re.findall(rb"/Type\s*/Page\b(?!s)", first)) == 1
    assert b"CreationDate" not in first
    assert first == sheet_pdf(one, picture_png())


def test_the_picture_has_the_notice_burned_in_and_no_patient() -> None:
    picture = sheet_picture(prediction(), picture_png())
    other = sheet_picture(prediction(patient="SOMEBODY ELSE"), picture_png())
    assert picture.dtype == np.uint8
    assert picture.shape[2] == 3
    assert np.array_equal(picture, other)
    # A red band with white letters at the top and at the bottom.
    red = np.all(picture == (0xA1, 0x12, 0x12), axis=2)
    rows = np.flatnonzero(red.mean(axis=1) > 0.5)
    assert rows.min() < 0.05 * len(picture)
    assert rows.max() > 0.95 * len(picture)
    top = picture[rows.min() : rows.min() + 40]
    assert (top.min(axis=2) > 240).any()
