from __future__ import annotations

import dataclasses
import json
import re
import xml.etree.ElementTree as ElementTree
from html.parser import HTMLParser
from pathlib import Path

import pytest

from phcc_model.errors import StorageError
from phcc_server.report import page
from phcc_server.report.page import render_page, write_report
from phcc_server.report.summary import ScoredCase, Summary
from phcc_server.report.wording import estimate, limits, warnings

HOSTILE = "<script>alert(1)</script>\"'&"
CONFIG = "name: demo\nseed: 0\n# <script>alert(2)</script>\n"
VOID = {"meta", "link", "br", "hr", "img"}


class Reader(HTMLParser):
    """What a browser would find: tags closed in order, attributes, text."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.links: list[str] = []
        self.ids: list[str] = []
        self.text: list[str] = []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.handle_startendtag(tag, attributes)
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        for name, value in attributes:
            assert not name.startswith("on"), f"{name} would run code"
            if name in ("src", "href", "xlink:href", "action", "data", "srcset"):
                self.links.append(value or "")
            if name == "id":
                self.ids.append(value or "")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def read(html: str) -> Reader:
    reader = Reader()
    reader.feed(html)
    reader.close()
    assert reader.open == []
    return reader


def only(scored: list[ScoredCase], *arms: str) -> list[ScoredCase]:
    return [row for row in scored if row.arm in arms]


@pytest.fixture(scope="module")
def html(summary: Summary, scored: list[ScoredCase]) -> str:
    return render_page(summary, scored=scored, config_yaml=CONFIG, notes=["Aarhus: few"])


def test_the_page_stands_alone(html: str) -> None:
    reader = read(html)
    assert "script" not in reader.tags
    assert set(reader.tags).isdisjoint({"iframe", "img", "object", "embed", "base", "form"})
    assert all(link.startswith(("#", "data:")) for link in reader.links)
    assert "@import" not in html
    assert re.search(r"url\((?!#)", html) is None
    assert "default-src 'none'" in html
    assert len(reader.ids) == len(set(reader.ids))
    assert reader.tags.count("svg") == reader.tags.count("figure") == 19


def test_every_result_stands_on_the_page(html: str, summary: Summary) -> None:
    text = "".join(read(html).text)
    for results in summary.arms.values():
        for split in ("internal", "external", "Cádiz", "Graz"):
            assert estimate(results[split].auc, results[split].ci) in text
    for pair in summary.paired:
        assert f"{pair.a} minus {pair.b}" in text
    assert summary.digests["splits"] in text
    assert "Aarhus: few" in text
    assert "2: box outside the volume; 1: NaN voxels" in text
    assert "no patients" not in text
    assert "0.89" in text
    assert "3 min 03 s" in text  # timing, 183 seconds
    assert "Research use only" in text
    assert "not a reproduction" in text.replace("\n", " ")
    assert re.search(r"\bnan\b|\bNone\b|\bUndefined\b", text) is None


def test_synthetic_data_cannot_be_missed(fabricate, html: str, scored: list[ScoredCase]) -> None:
    assert '<div class="banner synthetic" role="note"><strong>SYNTHETIC DATA</strong>' in html
    assert "AUC with 95 % interval, synthetic data" in html
    assert "nothing about patients" in html
    assert 'class="banner partial"' not in html
    rows = only(scored, "full")
    data = {"synthetic": False, "source": "nifti-csv", "patients": 653}
    summary = fabricate(rows, data=data, best_possible_auc={}, rounds=[], bootstrap=0)
    real = render_page(summary, scored=rows, config_yaml=CONFIG)
    assert "ynthetic" not in real.split("<body>")[1]
    assert "best possible" not in real
    assert "Who stands where" not in real


def test_a_partial_round_cannot_be_missed(fabricate, fabricate_round) -> None:
    broken = fabricate_round("full", "finetune", 3, status="PARTIAL")
    broken["sites"]["Bergen"] |= {"status": "missing", "reason": "no reply within 5 s"}
    failed = fabricate_round("full", "finetune", 4, status="FAILED")
    summary = fabricate([], rounds=[fabricate_round("full", "finetune", 2), broken, failed])
    html = render_page(summary, scored=[], config_yaml=CONFIG)
    banner = html.split('class="banner partial"')[1].split("</div>")[0]
    assert "full, stage 2, classifier, round 4 is PARTIAL (Bergen: no reply within 5 s)" in banner
    assert "round 5 is FAILED" in banner
    assert "round 3" not in banner
    assert "Bergen (missing, no reply within 5 s)" in html
    assert "<details open><summary>full: stage 2, classifier" in html


def test_what_comes_from_outside_is_text(fabricate, fabricate_round, renamed) -> None:
    scored = [dataclasses.replace(row, arm=HOSTILE) for row in only(renamed(HOSTILE), "afp")]
    record = fabricate_round(HOSTILE, HOSTILE, 0, status="PARTIAL")
    record["sites"][HOSTILE] = {"status": HOSTILE, "reason": HOSTILE, "metrics": {"loss": 0.5}}
    summary = fabricate(
        scored,
        study=HOSTILE,
        data={
            "synthetic": True,
            "source": HOSTILE,
            "patients": 3,
            "split": [{"centre": HOSTILE, "split": HOSTILE, "positives": 2}],
            "funnel": {HOSTILE: {"found": 3, "used": 2, "set_aside": {HOSTILE: 1}}},
        },
        rounds=[record],
        best_possible_auc={HOSTILE: 0.9},
        timing={HOSTILE: HOSTILE},
        digests={HOSTILE: HOSTILE},
        bootstrap=0,
    )
    reader = read(render_page(summary, scored=scored, config_yaml=CONFIG, notes=[HOSTILE]))
    assert "script" not in reader.tags
    assert sum(HOSTILE in text for text in reader.text) > 20


def test_nothing_scored_is_still_a_page(fabricate) -> None:
    html = render_page(fabricate([], rounds=[], best_possible_auc={}), scored=[], config_yaml="")
    assert "No arm has been scored." in "".join(read(html).text)


def test_undefined_figures_say_why(fabricate, scored: list[ScoredCase]) -> None:
    rows = [row for row in only(scored, "full", "afp") if row.split == "external" and row.label == 0]
    rows += [row for row in only(scored, "full", "afp") if row.split == "test"]
    text = "".join(
        read(render_page(fabricate(rows, rounds=[], bootstrap=0), scored=rows, config_yaml="")).text
    )
    assert "AUC not defined: one class only: all 123 cases are negative" in text
    assert "not defined: no positive cases" in text
    assert "full against afp: no difference can be claimed on the internal test" in text
    assert "external not defined (one class only" in text


def test_everything_is_written_whole(
    tmp_path: Path, summary: Summary, scored: list[ScoredCase], html: str
) -> None:
    """And the page is the same, to the letter, as when it was drawn before."""
    written = write_report(
        tmp_path / "run", summary, scored=scored, config_yaml=CONFIG, notes=["Aarhus: few"]
    )
    assert written == tmp_path / "run" / "report.html"
    names = sorted(path.name for path in written.parent.iterdir())
    assert names == ["checklists.md", "figures", "model-card.md", "report.html", "summary.json"]
    kept = Summary.model_validate(json.loads((written.parent / "summary.json").read_text("utf-8")))
    assert kept == summary.model_copy(update={"notes": ("Aarhus: few",)})
    for figure in (written.parent / "figures").iterdir():
        assert ElementTree.parse(figure).getroot().tag == "{http://www.w3.org/2000/svg}svg"
    assert len(list((written.parent / "figures").iterdir())) == 19
    assert written.read_text("utf-8") == html


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path, fabricate) -> None:
    (tmp_path / "run").write_text("a file in the way")
    with pytest.raises(StorageError, match="run"):
        write_report(tmp_path / "run", fabricate([], rounds=[]), scored=[], config_yaml="")


def test_a_page_that_fails_leaves_the_old_files(tmp_path: Path, fabricate, monkeypatch) -> None:
    write_report(tmp_path, fabricate([], study="old", rounds=[]), scored=[], config_yaml="")
    before = {path.name: path.read_bytes() for path in tmp_path.rglob("*.*")}

    def fail(*_: object, **__: object) -> str:
        raise ValueError("drawing went wrong")

    monkeypatch.setattr(page, "render_page", fail)
    with pytest.raises(ValueError, match="drawing"):
        write_report(tmp_path, fabricate([], study="new", rounds=[]), scored=[], config_yaml="")
    assert {path.name: path.read_bytes() for path in tmp_path.rglob("*.*")} == before


def test_no_interval_is_broken_over_two_lines(html: str, summary: Summary) -> None:
    result = summary.arms["full"]["internal"]
    assert f"{result.auc:.2f} <span>({limits(result.ci)})</span>" in html


def test_a_warning_about_most_arms_names_the_others(fabricate, scored: list[ScoredCase]) -> None:
    arms = ("full", "no-pretraining", "afp")
    few = [row for row in scored if row.centre == "Cádiz" and (row.arm != "afp" or row.label == 0)]
    texts = list(warnings(fabricate(few, bootstrap=0)))
    assert any("all but afp" in text for text in texts)
    assert not any(all(arm in text for arm in arms) for text in texts)


def test_of_many_arms_only_the_first_ones_training_is_unfolded(fabricate, fabricate_round) -> None:
    def unfolded(arms: tuple[str, ...]) -> int:
        rounds = [fabricate_round(arm, "finetune", 0) for arm in arms]
        page = render_page(fabricate([], rounds=rounds), scored=[], config_yaml="")
        return page.split("Training</h2>")[1].split("Rounds</h2>")[0].count("<details open>")

    assert unfolded(("full", "afp", "mean")) == 3
    assert unfolded(("full", "afp", "mean", "concat")) == 1
