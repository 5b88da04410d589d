"""What a simulated run keeps for its report is read back as it was, or refused in a line."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from phcc_model.errors import StorageError
from phcc_model.seeds import generator
from phcc_server.report.evaluation import ScoredCase
from phcc_server.report.kept import kept_photographs, mistakes_file, reconstruction_file
from phcc_server.report.schema import Summary
from phcc_server.report.scores import read_scores, scores_csv
from phcc_server.report.slices import Slices, load_slices, save_slices
from phcc_server.report.wording import group

TEXT = st.text(st.characters(codec="utf-8", exclude_categories=("Cc", "Cs")), max_size=12)
NAMES = TEXT.filter(bool)
FLOATS = st.floats(allow_nan=False, allow_infinity=False)
CASES = st.builds(
    ScoredCase,
    arm=NAMES,
    case=NAMES,
    patient=NAMES,
    centre=NAMES,
    split=st.sampled_from(["train", "validation", "test", "external"]),
    label=st.sampled_from([-1, 0, 1]),
    score=st.none() | FLOATS,
    threshold=st.none() | FLOATS,
    lesion_mm=st.none() | st.floats(0.0, 500.0),
    traits=st.fixed_dictionaries({"lesion size": TEXT, "vendor": TEXT}),
)


@given(st.lists(CASES, max_size=5))
def test_scores_are_read_back_to_the_bit(tmp_path_factory: Any, rows: list[ScoredCase]) -> None:
    path = tmp_path_factory.mktemp("scores") / "scores.csv"
    path.write_bytes(scores_csv(rows).encode())
    assert read_scores(path) == rows


def test_scores_of_an_earlier_version_have_no_traits(tmp_path: Path) -> None:
    path = tmp_path / "scores.csv"
    path.write_text("arm,centre,split,patient,case,label,score,threshold\nfull,A,test,p,c,1,0.5,0.25\n")
    assert read_scores(path) == [ScoredCase("full", "c", "p", "A", "test", 1, 0.5, 0.25)]


def reconstructed(arm: str, round_index: int, **changes: Any) -> Slices:
    draw = generator(3, arm, round_index)
    said = {
        "arm": arm, "round": round_index, "case": "P1", "centre": "A", "present": [True], "agreement": None,
        "spread": 0.5, "phases": ["arterial"], "aspect": 1.0, "objective": "norm-pix",
    }  # fmt: skip
    arrays = {name: draw.normal(size=(1, 6, 6)).astype(np.float32) for name in ("target", "prediction")}
    return Slices(said | changes, arrays | {"visible": np.ones((1, 6, 6), np.uint8)})


def test_slices_are_read_back_as_they_were(tmp_path: Path) -> None:
    kept = [reconstructed("full", 0), reconstructed("full", 3)]
    save_slices(tmp_path / "a.safetensors", kept)
    for one, again in zip(kept, load_slices(tmp_path / "a.safetensors"), strict=True):
        assert one.said == again.said
        assert {n: a.tobytes() for n, a in one.arrays.items()} == {
            n: a.tobytes() for n, a in again.arrays.items()
        }
    assert load_slices(tmp_path / "nothing") == []
    save_slices(tmp_path / "empty", [])
    assert load_slices(tmp_path / "empty") == []


def test_slices_that_are_damaged_are_named(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    save_slices(path, [reconstructed("full", 0)])
    whole = path.read_bytes()
    for damaged in (whole[:-9], whole[:20], b"", whole.replace(b"phcc-slices", b"phcc-slicer")):
        path.write_bytes(damaged)
        with pytest.raises(StorageError, match=r"a\.safetensors.*cannot be read"):
            load_slices(path)


def test_no_two_arms_share_a_file(tmp_path: Path) -> None:
    arms = ("full", "local:A B", "local:A-B", "local-A-B", "phase:arterial")
    assert len({reconstruction_file(tmp_path, arm, 0) for arm in arms}) == len(arms)


def test_an_arms_rounds_stand_in_one_picture(
    tmp_path: Path, fabricate: Callable[..., Summary], fabricate_round: Callable[..., dict[str, Any]]
) -> None:
    rounds = [fabricate_round(arm, "pretrain", 0) for arm in ("uniform", "full")]
    summary = fabricate([], rounds=rounds)
    for arm, number in (("full", 0), ("full", 14), ("uniform", 0), ("gone", 0)):
        save_slices(reconstruction_file(tmp_path, arm, number), [reconstructed(arm, number)])
    found = kept_photographs(tmp_path, summary)
    assert [one.group for one in found] == ["uniform", "full"]
    assert "after round 1 not defined and 0.50; after round 15" in found[1].caption
    assert kept_photographs(tmp_path / "elsewhere", summary) == []


def test_slices_that_lack_something_are_named(tmp_path: Path, fabricate, fabricate_round) -> None:
    summary = fabricate([], rounds=[fabricate_round("full", "pretrain", 0)])
    save_slices(reconstruction_file(tmp_path, "full", 0), [Slices({"arm": "full", "centre": "A"}, {})])
    with pytest.raises(StorageError, match="lack something"):
        kept_photographs(tmp_path, summary)


def test_mistakes_are_shown_in_the_order_of_the_table(tmp_path: Path, summary: Summary) -> None:
    about = {"present": [True], "phases": ["arterial"], "aspect": 1.0}
    arrays = {"slice": np.eye(6, dtype=np.float16)[None], "lesion": np.eye(6, dtype=np.uint8)}
    failures = summary.failures
    assert len(failures) == 12
    kept = [Slices(about | {"case": one.case, "centre": one.centre}, arrays) for one in failures[::-1]]
    save_slices(mistakes_file(tmp_path), kept[:-1])
    found = kept_photographs(tmp_path, summary)
    assert [one.title for one in found] == [f"{one.case}, {one.centre}" for one in failures[1:]]
    assert found[0].caption.startswith("Missed: positive, scored 0.")
    assert found[-1].caption.startswith("False alarm: negative, scored 0.")


def test_traits_part_the_test_patients_in_their_own_order(fabricate, scored: list[ScoredCase]) -> None:
    rows = [
        dataclasses.replace(row, traits={"vendor": "Aster" if at % 2 else "", "field strength": ""})
        for at, row in enumerate(scored)
        if row.arm == "full"
    ]
    found = fabricate(rows, bootstrap=0).subgroups
    assert list(dict.fromkeys(one.trait for one in found)) == ["centre", "vendor", "field strength"]
    assert [group(one.group) for one in found if one.trait == "vendor"] == ["Aster", "not recorded"]
    assert [group(one.group) for one in found if one.trait == "field strength"] == ["not recorded"]
