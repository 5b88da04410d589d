"""Voxels as measured, however they are stored; and files that lie about themselves."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from dicom_maker import PLAIN_SYNTAXES, encoded, uid, write_series
from numpy.typing import NDArray
from pydicom import dcmread
from pydicom.uid import (
    UID,
    JPEG2000Lossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
)

from phcc_client.ingest.dicom_decoder import Decoder
from phcc_client.ingest.dicom_files import scan
from phcc_client.ingest.dicom_series import examinations
from phcc_client.ingest.examination import Image, Series
from phcc_model.errors import CaseError

COMPRESSED = (JPEGLosslessSV1, JPEGLSLossless, JPEG2000Lossless, RLELossless)
UNSIGNED = np.random.default_rng(5).integers(0, 4096, (4, 24, 20)).astype(np.uint16)
SIGNED = (UNSIGNED.astype(np.int16) - 2048).astype(np.int16)


def only(folder: Path) -> Series:
    ((series,),) = [exam.series for exam in examinations(scan(folder))]
    return series


def read(folder: Path) -> NDArray[np.float32]:
    series = only(folder)
    assert series.image is not None, series.defect
    return series.image.read()


@pytest.mark.parametrize("syntax", [*PLAIN_SYNTAXES, *COMPRESSED], ids=lambda syntax: UID(syntax).name[:24])
@pytest.mark.parametrize("signed", [False, True], ids=["unsigned", "signed"])
@pytest.mark.parametrize("multiframe", [False, True], ids=["classic", "enhanced"])
def test_every_transfer_syntax_gives_the_same_voxels(
    tmp_path: Path, syntax: UID, signed: bool, multiframe: bool
) -> None:
    volume = SIGNED if signed else UNSIGNED
    write_series(tmp_path, volume, transfer_syntax=syntax, multiframe=multiframe)
    array = read(tmp_path)
    assert array.dtype == np.float32
    np.testing.assert_array_equal(array, volume)


def test_a_data_set_without_preamble_is_read(tmp_path: Path) -> None:
    write_series(tmp_path, UNSIGNED, with_preamble=False)
    np.testing.assert_array_equal(read(tmp_path), UNSIGNED)


def test_slope_and_intercept_of_each_slice(tmp_path: Path) -> None:
    def per_slice(_time: int, index: int) -> Mapping[str, Any]:
        return {"RescaleSlope": 0.5 + index, "RescaleIntercept": -10.0 * index}

    write_series(tmp_path, UNSIGNED, per_slice=per_slice)
    factors = np.arange(4)[:, None, None]
    np.testing.assert_allclose(read(tmp_path), UNSIGNED * (0.5 + factors) - 10.0 * factors, rtol=1e-6)


def test_slope_and_intercept_of_each_frame(tmp_path: Path) -> None:
    from pydicom import Dataset

    def per_frame(_time: int, index: int) -> Mapping[str, Any]:
        item = Dataset()
        item.RescaleSlope, item.RescaleIntercept, item.RescaleType = 2.0 + index, 7.0, "US"
        return {"PixelValueTransformationSequence": [item]}

    write_series(tmp_path, UNSIGNED, multiframe=True, per_slice=per_frame)
    np.testing.assert_allclose(read(tmp_path), UNSIGNED * (2.0 + np.arange(4)[:, None, None]) + 7.0)


@pytest.mark.parametrize("value", [0.0, "abc", "nan", "1e400"])
def test_a_slope_that_cannot_scale_is_a_defect(tmp_path: Path, value: Any) -> None:
    for file in write_series(tmp_path, UNSIGNED, tags={"RescaleSlope": 7.125, "RescaleIntercept": 0.0}):
        raw = file.read_bytes()
        assert raw.count(b"7.125 ") == 1
        file.write_bytes(raw.replace(b"7.125 ", str(value).ljust(6).encode()))
    assert "RescaleSlope" in only(tmp_path).defect


@pytest.mark.parametrize("signed", [False, True])
def test_bits_above_those_stored_are_no_part_of_a_value(tmp_path: Path, signed: bool) -> None:
    meant = SIGNED if signed else UNSIGNED
    dirty = (meant.view(np.uint16) & 0x0FFF) | 0xA000  # an old overlay in the four highest bits
    stored = dirty.view(np.int16) if signed else dirty
    write_series(tmp_path, stored, tags={"BitsStored": 12, "HighBit": 11})
    np.testing.assert_array_equal(read(tmp_path), meant)


def test_values_that_stand_high_in_their_word(tmp_path: Path) -> None:
    write_series(tmp_path, (UNSIGNED << 4).astype(np.uint16), tags={"BitsStored": 12, "HighBit": 15})
    np.testing.assert_array_equal(read(tmp_path), UNSIGNED)


def test_monochrome1_is_turned_round_and_told(tmp_path: Path) -> None:
    write_series(
        tmp_path, UNSIGNED, tags={"PhotometricInterpretation": "MONOCHROME1", "BitsStored": 12, "HighBit": 11}
    )
    series = only(tmp_path)
    assert any("MONOCHROME1" in remark for remark in series.remarks)
    np.testing.assert_array_equal(read(tmp_path), 4095 - UNSIGNED.astype(float))


def test_padding_is_no_darker_than_the_image(tmp_path: Path) -> None:
    padded = SIGNED.clip(-500, None)
    padded[:, :3] = -2000
    write_series(tmp_path, padded, tags={"PixelPaddingValue": -2000})
    array = read(tmp_path)
    assert array.min() == -500
    np.testing.assert_array_equal(array[:, 3:], padded[:, 3:])


@pytest.mark.parametrize(
    ("tags", "reason"),
    [
        ({"SamplesPerPixel": 3, "PhotometricInterpretation": "RGB"}, "in colour"),
        ({"BitsAllocated": 12}, "samples of 16 bits in 12"),
        ({"BitsStored": 0, "HighBit": 40}, "cannot be"),
        ({"Rows": 65535, "Columns": 65535}, "is not believed"),
        ({"Rows": 4000}, "files are truncated: one holds 960 of 160000 bytes"),
        ({"NumberOfFrames": 9999}, "files are truncated"),
        ({"NumberOfFrames": 2_000_000_000}, "is not believed"),
    ],
)
@pytest.mark.parametrize("multiframe", [False, True])
def test_a_header_that_promises_too_much_is_not_believed(
    tmp_path: Path, tags: Mapping[str, Any], reason: str, multiframe: bool
) -> None:
    write_series(tmp_path, UNSIGNED, tags=tags, multiframe=multiframe)
    series = only(tmp_path)
    assert series.image is None
    assert reason.partition("960")[0] in series.defect
    assert series.remedy


@pytest.mark.parametrize("syntax", COMPRESSED, ids=lambda syntax: UID(syntax).name[:24])
def test_compressed_pixels_that_end_early_are_an_error_with_the_files_name(
    tmp_path: Path, syntax: UID
) -> None:
    files = write_series(tmp_path, UNSIGNED, transfer_syntax=syntax)
    dataset = dcmread(files[2])
    dataset.PixelData = dataset.PixelData[: len(dataset.PixelData) // 2 // 2 * 2]
    dataset["PixelData"].is_undefined_length = True
    raw = files[2].read_bytes()
    files[2].write_bytes(raw[: raw.rindex(dataset.PixelData[-64:]) + 64])
    series = only(tmp_path)
    assert series.image is not None
    with pytest.raises(CaseError, match=files[2].name):
        series.image.read()


def test_a_file_that_changed_since_the_scan_is_an_error(tmp_path: Path) -> None:
    files = write_series(tmp_path, UNSIGNED)
    image = only(tmp_path).image
    assert image is not None
    files[1].write_bytes(files[1].read_bytes()[:-10])
    with pytest.raises(CaseError, match="has changed"):
        image.read()
    files[1].unlink()
    with pytest.raises(CaseError, match="cannot be read"):
        image.read()


def test_a_codec_that_dies_or_loops_takes_nobody_along(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (file,) = write_series(tmp_path, UNSIGNED, transfer_syntax=RLELossless, multiframe=True)
    decoder = Decoder()
    try:
        frames = decoder.frames(file, [0, 1, 2, 3], 480)
        np.testing.assert_array_equal(next(frames), UNSIGNED[0].ravel())
        decoder._process.kill()
        with pytest.raises(CaseError, match="ended early"):
            list(frames) and list(decoder.frames(file, [0], 480))
        assert not decoder.usable
    finally:
        decoder.close()
    monkeypatch.setattr("phcc_client.ingest.dicom_decoder.SECONDS", 0.0)
    decoder = Decoder()
    try:
        with pytest.raises(CaseError, match="too long"):
            list(decoder.frames(file, [0], 480))
    finally:
        decoder.close()


def test_damaged_compressed_frames_are_errors_or_images_and_never_a_crash(tmp_path: Path) -> None:
    random = np.random.default_rng(11)
    outcomes: list[NDArray[np.float32] | CaseError] = []
    for syntax in COMPRESSED:
        for attempt in range(8):
            first, _ = write_series(tmp_path / f"{syntax}-{attempt}", UNSIGNED[:2], transfer_syntax=syntax)
            raw = bytearray(first.read_bytes())
            packed = len(dcmread(first).PixelData)
            for _ in range(int(random.integers(1, 6))):
                raw[-int(random.integers(1, packed - 20))] = int(random.integers(256))
            first.write_bytes(bytes(raw))
            image = only(first.parent).image
            assert image is not None
            outcomes.append(read_or_error(image))
    assert any(isinstance(outcome, CaseError) for outcome in outcomes)
    assert all(str(tmp_path) in str(outcome) for outcome in outcomes if isinstance(outcome, CaseError))


def read_or_error(image: Image) -> NDArray[np.float32] | CaseError:
    try:
        return image.read()
    except CaseError as error:
        return error


def test_the_maker_writes_the_same_bytes_twice(tmp_path: Path) -> None:
    first = [file.read_bytes() for file in write_series(tmp_path / "a", UNSIGNED)]
    assert first == [file.read_bytes() for file in write_series(tmp_path / "b", UNSIGNED)]
    assert uid("a") != uid("b")
    assert encoded(dcmread(tmp_path / "a" / "IM00000"), PLAIN_SYNTAXES[1]) == first[0]
