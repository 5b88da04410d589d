"""Pictures of voxels: the same bytes for the same slices, and a collapse that numbers show as well."""

from __future__ import annotations

import io

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from phcc_model.seeds import generator
from phcc_server.report.page import render_page
from phcc_server.report.photographs import Filled, Photograph, fidelity, mistake, reconstruction

TARGET = generator(0, "photograph").normal(size=(2, 8, 8))
VISIBLE = generator(1, "photograph").random((2, 8, 8)) < 0.4
PHASES = ["pre-contrast", "arterial"]


def pixels(picture: Photograph) -> NDArray[np.uint8]:
    return np.asarray(Image.open(io.BytesIO(picture.png)).convert("L"))


def drawn(prediction: NDArray[np.floating], **changes: object) -> Photograph:
    filled = [Filled("round 1", prediction, 0.25, 0.5), Filled("round 9", TARGET, None, 0.0)]
    return reconstruction("full", TARGET, VISIBLE, filled, PHASES, **changes)  # type: ignore[arg-type]


def test_a_collapse_is_seen_in_numbers() -> None:
    assert fidelity(TARGET, VISIBLE, TARGET) == pytest.approx((1.0, 1.0))
    assert fidelity(TARGET, VISIBLE, -0.5 * TARGET) == pytest.approx((-1.0, 0.5))
    assert fidelity(TARGET, VISIBLE, np.zeros_like(TARGET)) == (None, 0.0)
    assert fidelity(np.ones_like(TARGET), VISIBLE, TARGET) == (None, 0.0)


def test_a_reconstruction_says_what_its_numbers_and_units_are() -> None:
    picture = drawn(0.5 * TARGET, objective="norm-pix", case="P1 (C1)")
    assert picture == drawn(0.5 * TARGET, objective="norm-pix", case="P1 (C1)")
    assert "after round 1 0.25 and 0.50; after round 9 not defined and 0.00" in picture.caption
    assert "both are taken from the target" in picture.caption
    assert "normalised voxels themselves" in drawn(TARGET).caption
    assert "P1 (C1)" in picture.title
    assert picture.png.startswith(b"\x89PNG")


def test_what_was_filled_in_alters_the_picture_where_it_was_hidden_only() -> None:
    hidden_differs = np.where(VISIBLE, TARGET, 0.0)
    visible_differs = np.where(VISIBLE, 0.0, TARGET)
    assert not np.array_equal(pixels(drawn(TARGET)), pixels(drawn(hidden_differs)))
    assert np.array_equal(pixels(drawn(TARGET)), pixels(drawn(visible_differs)))


def test_a_missing_phase_is_said_and_not_drawn() -> None:
    one = drawn(TARGET, present_p=[True, False])
    assert not np.array_equal(pixels(one), pixels(drawn(TARGET)))
    other = reconstruction(
        "full",
        np.stack([TARGET[0], 9.0 + TARGET[1]]),
        VISIBLE,
        [Filled("round 1", TARGET, 0.25, 0.5), Filled("round 9", TARGET, None, 0.0)],
        PHASES,
        present_p=[True, False],
    )
    assert np.array_equal(pixels(one), pixels(other))


@pytest.mark.parametrize("fill", [0.0, 7.0])
def test_a_flat_slice_can_be_drawn(fill: float) -> None:
    flat = np.full((1, 8, 8), fill)
    picture = mistake("P1", "C1", "Missed.", flat, np.zeros((8, 8), bool), ["image"], present_p=[True])
    assert picture.png.startswith(b"\x89PNG")


def test_a_mistake_is_outlined() -> None:
    lesion = np.zeros((8, 8), bool)
    plain = mistake("P1", "C1", "Missed.", TARGET, lesion, PHASES, present_p=[True, True])
    lesion[2:6, 2:6] = True
    lined = mistake("P1", "C1", "Missed.", TARGET, lesion, PHASES, present_p=[True, True])
    assert not np.array_equal(pixels(plain), pixels(lined))
    assert lined.part == "mistakes"


def test_photographs_stand_in_their_parts_of_the_page(fabricate, scored) -> None:
    filled = drawn(TARGET)
    wrong = mistake("P1", "C<1>", "Missed.", TARGET, VISIBLE[0], PHASES, present_p=[True, True])
    html = render_page(fabricate(scored), scored=scored, config_yaml="", photographs=[filled, wrong])
    assert html.index("Surest mistakes") < html.index(wrong.uri) < html.index("Training</h2>")
    assert html.index("what its autoencoder fills in") < html.index(filled.uri) < html.index("Rounds</h2>")
    assert "C<1>" not in html
    without = render_page(fabricate(scored), scored=scored, config_yaml="")
    assert "autoencoder fills in" not in without
    assert "<img" not in without
