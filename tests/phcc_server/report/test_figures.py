from __future__ import annotations

import dataclasses
import re
import xml.etree.ElementTree as ElementTree

import matplotlib as mpl
import pytest

from phcc_server.report.canvas import COLOURS, Picture, canvas, colour, dash
from phcc_server.report.curves import training_pictures, weighting_pictures
from phcc_server.report.figures import (
    MOST_ARMS,
    forest_pictures,
    roc_pictures,
    score_pictures,
    split_picture,
)
from phcc_server.report.summary import ScoredCase, Summary

HOSTILE = "<script>alert('$x_2$')</script> & Łódź 中心"
SVG = "{http://www.w3.org/2000/svg}"


def texts(picture: Picture) -> list[str]:
    """What a reader can read in a figure; parsing shows that it is well-formed."""
    return ["".join(node.itertext()) for node in ElementTree.fromstring(picture.svg).iter(f"{SVG}text")]


@pytest.fixture(scope="module")
def pictures(summary: Summary, scored: list[ScoredCase]) -> list[Picture]:
    return [
        *roc_pictures(summary, scored),
        *forest_pictures(summary),
        *score_pictures(summary, scored),
        split_picture(summary),
        *training_pictures(summary),
        *weighting_pictures(summary),
    ]


def test_there_is_a_figure_of_everything(pictures: list[Picture]) -> None:
    assert [picture.name for picture in pictures] == [
        "roc-internal",
        "roc-external",
        "auc-1",
        "scores-internal",
        "scores-external",
        "split",
        "training-full-pretrain",
        "training-full-finetune",
        "training-no-pretraining-finetune",
        "weighting-full",
    ]
    assert all(picture.title and picture.caption for picture in pictures)


def test_figures_fit_into_a_page(pictures: list[Picture]) -> None:
    """No id twice, no size of their own, no style sheet, a name for readers who do not see them."""
    ids = [identity for picture in pictures for identity in re.findall(r'\bid="([^"]*)"', picture.svg)]
    assert len(ids) == len(set(ids)) > 100
    for picture in pictures:
        root = ElementTree.fromstring(picture.svg)
        assert root.tag == f"{SVG}svg"
        assert root.get("width") is None
        assert root.get("viewBox", "").startswith("0 0 316.8 ")
        assert root.get("role") == "img"
        assert root.get("aria-label") == picture.title
        assert root.find(f".//{SVG}style") is None
        own = set(re.findall(r'\bid="([^"]*)"', picture.svg))
        used = set(re.findall(r'(?:href="#|url\(#)([^")]*)', picture.svg))
        assert used <= own


def test_text_stays_text_and_carries_the_results(pictures: list[Picture], summary: Summary) -> None:
    by_name = {picture.name: texts(picture) for picture in pictures}
    for arm, results in summary.arms.items():
        assert f"{results['internal'].auc:.2f}  {arm}" in by_name["roc-internal"]
        assert by_name["auc-1"].count(arm) == len(summary.splits)
    assert {"internal test", "external test", "Cádiz", "Graz"} <= set(by_name["auc-1"])
    assert {"Aarhus · train", "Graz · external", "84", "116", "30 + 40 + 2"} <= set(by_name["split"])
    assert {"Aarhus", "validation", "loss", "AUC"} <= set(by_name["training-full-finetune"])
    assert {"redundancy", "uniform weights"} <= set(by_name["weighting-full"])


def test_names_from_outside_are_text_and_nothing_else(fabricate, renamed) -> None:
    rows = [row for row in renamed(HOSTILE) if row.arm == "full" and row.split != "train"]
    summary = fabricate(rows, bootstrap=0)
    (forest,) = forest_pictures(summary)
    assert "<script" not in forest.svg
    assert HOSTILE in texts(forest)


def test_drawing_leaves_matplotlib_as_it_was(summary: Summary) -> None:
    before = dict(mpl.rcParams)
    split_picture(summary)
    assert dict(mpl.rcParams) == before


def test_what_is_not_defined_is_written_and_not_drawn(fabricate, scored: list[ScoredCase]) -> None:
    rows = [row for row in scored if row.arm == "full" and row.split == "test"]
    rows = [row for row in rows if row.centre != "Aarhus" or row.label == 0]
    summary = fabricate(rows, bootstrap=0, rounds=[])
    (forest,) = forest_pictures(summary)
    assert texts(forest).count("not defined") == 2  # Aarhus, and the external test
    assert training_pictures(summary) == weighting_pictures(summary) == []


def test_no_external_patients_no_external_curves(fabricate, scored: list[ScoredCase]) -> None:
    rows = [row for row in scored if row.arm == "afp" and row.split == "test"]
    summary = fabricate(rows, bootstrap=0)
    assert [picture.name for picture in roc_pictures(summary, rows)] == ["roc-internal"]
    assert [picture.name for picture in score_pictures(summary, rows)] == ["scores-internal"]


def test_many_arms_and_centres_are_shared_out_over_figures(fabricate, scored: list[ScoredCase]) -> None:
    arms = [f"phase:{number}" for number in range(MOST_ARMS + 2)]
    full = [row for row in scored if row.arm == "full" and row.split == "test"]
    full += [row for row in scored if row.arm == "full" and row.split == "external"][:30]
    rows = [dataclasses.replace(row, arm=arm) for arm in arms for row in full]
    summary = fabricate(rows, bootstrap=0)
    forests = forest_pictures(summary)
    assert len(forests) == 2
    assert forests[0].title.endswith("(1 of 2)")
    assert sum(texts(picture).count("phase:8") for picture in forests) == len(summary.splits)
    curves = roc_pictures(summary, rows)[0]
    assert "2 more arms are not drawn" in curves.caption
    assert not any("phase:8" in text for text in texts(curves))


def test_series_are_told_apart_without_colour() -> None:
    styles = [(colour(index), str(dash(index))) for index in range(2 * len(COLOURS))]
    assert len(set(styles)) == len(styles)
    assert len({str(dash(index)) for index in range(4)}) == 4


def test_incomplete_rounds_are_shaded(fabricate, fabricate_round) -> None:
    rounds = [fabricate_round("full", "finetune", n) for n in range(3)]
    whole = fabricate([], rounds=rounds)
    broken = fabricate([], rounds=[rounds[0], rounds[1] | {"status": "PARTIAL"}, rounds[2]])
    assert "#f3dfa2" not in training_pictures(whole)[0].svg
    (picture,) = training_pictures(broken)
    assert "#f3dfa2" in picture.svg
    assert "PARTIAL" in picture.caption


def test_rounds_without_figures_still_make_a_figure(fabricate, fabricate_round) -> None:
    bare = {"arm": "full", "stage": "finetune", "round": 0, "status": "FAILED"}
    assert len(training_pictures(fabricate([], rounds=[bare]))) == 1
    many = fabricate_round("full", "finetune", 0)
    many["sites"] = {f"site {n}": many["sites"]["Aarhus"] for n in range(12)}
    (picture,) = training_pictures(fabricate([], rounds=[many]))
    assert "site 3" not in texts(picture)


def test_a_figure_needs_no_screen() -> None:
    with canvas(rows=2, height=2.0) as sheet:
        assert type(sheet.figure.canvas).__name__ == "FigureCanvasSVG"
        assert len(sheet.panels) == 2
