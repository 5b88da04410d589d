from __future__ import annotations

import gzip
import itertools
import os
import tracemalloc
import zlib
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from phcc_client.imaging.case import Box
from phcc_client.imaging.grid import Grid
from phcc_client.imaging.volume import Header, read_header, read_voxels
from phcc_model.errors import CaseError

NIBABEL: Any = nibabel


def test_types_byte_orders_and_scaling_are_read_as_nibabel_reads_them(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    kinds = [np.uint8, np.int8, np.int16, np.uint16, np.int32, np.uint32, np.int64, np.float32, np.float64]
    for i, (kind, order, ending) in enumerate(itertools.product(kinds, "<>", ("nii", "nii.gz"))):
        whd = rng.integers(0, 100, (5, 4, 3)).astype(kind)
        image = NIBABEL.Nifti1Image(whd, np.diag([-2.0, -1.5, 3.0, 1.0]), dtype=kind)
        image = NIBABEL.Nifti1Image(whd, image.affine, image.header.as_byteswapped(order))
        slope = (2.5, -7.0) if i % 2 else (np.nan, np.nan)
        image.header.set_slope_inter(*slope)
        path = tmp_path / f"{i}.{ending}"
        with gzip.open(path, "wb") if ending.endswith("gz") else path.open("wb") as file:
            file.write(_bytes(image, whd))
        header = read_header(path)
        expected = NIBABEL.load(path).get_fdata().transpose(2, 1, 0)
        np.testing.assert_allclose(header.scaled(read_voxels(header)), expected, rtol=1e-6)
        np.testing.assert_allclose(header.grid.spacing_mm_dhw, (3.0, 1.5, 2.0))


def _bytes(image: Any, whd: np.ndarray[Any, Any]) -> bytes:
    """The file as a scanner would write it: stored values as given, scaling in the header only."""
    header = image.header.copy()
    header["vox_offset"] = 352
    header["magic"] = b"n+1"
    stored = whd.astype(header.get_data_dtype()).tobytes(order="F")
    return bytes(header.binaryblock) + b"\0\0\0\0" + stored


@pytest.mark.parametrize("permutation", list(itertools.permutations(range(3))))
@pytest.mark.parametrize("signs", list(itertools.product((1, -1), repeat=3)))
def test_every_orientation_gives_the_same_array(
    tmp_path: Path, permutation: tuple[int, ...], signs: tuple[int, ...]
) -> None:
    lps_whd = np.arange(2 * 3 * 4, dtype=np.int16).reshape(2, 3, 4)
    # Axes of the patient (L, P, S) at 1, 2, 3 mm; NIfTI's world is RAS.
    affine = np.diag([-1.0, -2.0, 3.0, 1.0])
    stored = NIBABEL.Nifti1Image(lps_whd, affine).as_reoriented(
        np.array(list(zip(permutation, signs, strict=True)))
    )
    path = tmp_path / "turned.nii"
    NIBABEL.save(stored, path)
    header = read_header(path)
    assert np.array_equal(read_voxels(header), lps_whd.transpose(2, 1, 0))
    np.testing.assert_allclose(header.grid.matrix, np.diag([3.0, 2.0, 1.0]), atol=1e-6)
    np.testing.assert_allclose(header.grid.origin_mm, 0.0, atol=1e-5)
    # A box drawn on the stored voxels encloses the same voxel after turning.
    place = np.argwhere(np.asarray(stored.dataobj).transpose(2, 1, 0) == lps_whd[1, 2, 3])[0]
    low = (int(place[0]), int(place[1]), int(place[2]))
    turned = header.grid.turn_box(Box(low, (low[0] + 1, low[1] + 1, low[2] + 1)))
    assert turned == Box((3, 2, 1), (4, 3, 2))


def test_a_spacing_from_an_annotation_replaces_the_file_s_geometry(tmp_path: Path, write_nifti: Any) -> None:
    array = np.arange(24, dtype=np.int16).reshape(2, 3, 4)
    turned = np.diag([-1.0, -1.0, 1.0])
    path = write_nifti(tmp_path / "a.nii.gz", array, (9.0, 9.0, 9.0), direction=turned)
    header = read_header(path, (3.0, 1.5, 1.25))
    assert np.array_equal(read_voxels(header), array)
    np.testing.assert_allclose(header.grid.spacing_mm_dhw, (3.0, 1.5, 1.25))


def test_a_box_is_checked_against_the_stored_axes(tmp_path: Path, write_nifti: Any) -> None:
    swapped = np.array([[0.0, 1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
    path = write_nifti(tmp_path / "a.nii", np.zeros((2, 3, 9), np.int16), direction=swapped)
    grid = read_header(path).grid
    assert grid.shape_dhw == (2, 9, 3)
    grid.turn_box(Box((0, 0, 6), (2, 3, 9)))
    with pytest.raises(CaseError, match="reaches y = 8"):
        grid.turn_box(Box((0, 6, 0), (2, 9, 3)))


@pytest.mark.parametrize("ending", ["nii", "nii.gz"])
@pytest.mark.parametrize("share", [0.0, 0.001, 0.3, 0.9, 0.9999])
def test_a_truncated_file_is_never_read(tmp_path: Path, write_nifti: Any, ending: str, share: float) -> None:
    array = np.random.default_rng(1).integers(0, 1000, (8, 40, 40)).astype(np.int16)
    path = write_nifti(tmp_path / f"a.{ending}", array)
    whole = path.read_bytes()
    path.write_bytes(whole[: min(int(len(whole) * share), len(whole) - 1)])
    with pytest.raises(CaseError, match=r"truncated|cannot be read as NIfTI") as caught:
        read_voxels(read_header(path))
    assert caught.value.where == str(path)
    assert caught.value.remedy


@pytest.mark.parametrize("share", [0.3, 0.5, 0.7, 0.95])
def test_a_file_damaged_in_the_middle_is_never_read(tmp_path: Path, write_nifti: Any, share: float) -> None:
    array = np.random.default_rng(1).integers(0, 1000, (20, 64, 64)).astype(np.int16)
    path = write_nifti(tmp_path / "a.nii.gz", array)
    content = bytearray(path.read_bytes())
    content[int(len(content) * share)] ^= 0x10
    path.write_bytes(bytes(content))
    with pytest.raises(CaseError, match=r"damaged|truncated|cannot be read as NIfTI"):
        read_voxels(read_header(path))


def test_more_than_a_volume_is_refused_but_a_single_time_point_is_not(tmp_path: Path) -> None:
    one, two = tmp_path / "one.nii.gz", tmp_path / "two.nii.gz"
    values = np.arange(24, dtype=np.int16).reshape(2, 3, 4, 1)
    NIBABEL.save(NIBABEL.Nifti1Image(values, np.diag([-1.0, -1.0, 1.0, 1.0])), one)
    NIBABEL.save(NIBABEL.Nifti1Image(np.repeat(values, 2, axis=3), np.eye(4)), two)
    assert np.array_equal(read_voxels(read_header(one)), values[..., 0].transpose(2, 1, 0))
    with pytest.raises(CaseError, match=r"holds 2 x 3 x 4 x 2 voxels"):
        read_header(two)


def test_complex_voxels_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.nii"
    NIBABEL.save(NIBABEL.Nifti1Image(np.ones((2, 3, 4), np.complex64), np.eye(4)), path)
    with pytest.raises(CaseError, match=r"not one volume of numbers|cannot be read"):
        read_header(path)


def test_what_is_no_file_and_no_nifti_is_told_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(CaseError, match="no such file"):
        read_header(tmp_path / "none.nii.gz")
    path = tmp_path / "text.nii.gz"
    path.write_text("this is no image")
    with pytest.raises(CaseError, match="cannot be read as NIfTI") as caught:
        read_header(path)
    assert "\n" not in str(caught.value)


def test_a_pair_of_header_and_image_is_refused(tmp_path: Path) -> None:
    NIBABEL.save(NIBABEL.Nifti1Pair(np.zeros((2, 3, 4), np.int16), np.eye(4)), tmp_path / "a.img")
    with pytest.raises(CaseError, match="is not named as a NIfTI file"):
        read_header(tmp_path / "a.hdr")


def test_the_second_version_of_nifti_is_refused_and_not_misread(tmp_path: Path) -> None:
    path = tmp_path / "two.nii.gz"
    NIBABEL.save(NIBABEL.Nifti2Image(np.arange(24, dtype=np.int16).reshape(2, 3, 4), np.eye(4)), path)
    with pytest.raises(CaseError, match="cannot be read as NIfTI"):
        read_header(path)


def test_a_header_that_promises_more_than_the_file_can_hold_costs_no_memory(tmp_path: Path) -> None:
    image = NIBABEL.Nifti1Image(np.zeros((2, 2, 2), np.int16), np.eye(4))
    image.header.set_data_shape((30000, 30000, 30000))
    path = tmp_path / "bomb.nii.gz"
    path.write_bytes(gzip.compress(bytes(image.header.binaryblock) + b"\0" * 5000))
    with pytest.raises(CaseError, match="truncated"):
        read_voxels(read_header(path))


def test_grids_are_compared_to_a_tenth_of_a_voxel() -> None:
    grid = Grid.plain((4, 5, 6), (3.0, 1.0, 1.0))
    near = Grid(grid.shape_dhw, grid.matrix, grid.origin_mm + 0.05)
    far = Grid(grid.shape_dhw, grid.matrix, grid.origin_mm + 0.3)
    assert grid.same_as(near)
    assert not grid.same_as(far)
    assert not grid.same_as(Grid.plain((4, 5, 7), (3.0, 1.0, 1.0)))
    assert not grid.same_as(Grid.plain((4, 5, 6), (3.0, 1.0, 1.1)))


@pytest.mark.parametrize("ending", ["nii", "nii.gz"])
@pytest.mark.parametrize(
    ("at", "value"),
    [(76, np.nan), (80, np.inf), (88, -np.inf), (256, np.nan), (268, 1e30), (280, np.nan), (324, -np.inf)],
)
def test_a_geometry_that_is_no_number_is_refused_before_itk_computes_on_it(
    tmp_path: Path, ending: str, at: int, value: float
) -> None:
    image = NIBABEL.Nifti1Image(np.zeros((2, 3, 4), np.int16), np.diag([-1.0, -1.0, 3.0, 1.0]))
    image.set_qform(image.affine, 1)
    image.set_sform(image.affine, 1)
    for order in "<>":
        content = bytearray(
            _bytes(
                NIBABEL.Nifti1Image(image.dataobj, None, image.header.as_byteswapped(order)),
                np.zeros((2, 3, 4)),
            )
        )
        content[at : at + 4] = np.array(value, f"{order}f4").tobytes()
        path = tmp_path / f"a.{ending}"
        path.write_bytes(gzip.compress(bytes(content)) if ending.endswith("gz") else bytes(content))
        with pytest.raises(CaseError, match="its geometry holds what is no number"):
            read_header(path)


def test_a_file_without_the_mark_of_nifti_is_not_taken_for_another_format(tmp_path: Path, capfd: Any) -> None:
    path = tmp_path / "a.nii"
    NIBABEL.save(NIBABEL.Nifti1Image(np.zeros((2, 3, 4), np.int16), np.eye(4)), path)
    content = bytearray(path.read_bytes())
    content[344:348] = b"\0\0\0\0"
    path.write_bytes(content)
    with pytest.raises(CaseError, match="lacks the mark of NIfTI-1"):
        read_header(path)
    assert capfd.readouterr() == ("", "")


def packed_file(path: Path, content: bytes, shape: tuple[int, int, int] = (20, 40, 30)) -> Header:
    """A file of any bytes, and the header of a volume of int16 that claims to lie in it."""
    path.write_bytes(content)
    return Header(path, Grid.plain(shape, (3.0, 1.0, 1.0)), shape, "i2", 352, 1.0, 0.0)


def volume_bytes(shape: tuple[int, int, int] = (20, 40, 30), seed: int = 0) -> bytes:
    values = np.random.default_rng(seed).integers(0, 900, shape).astype("<i2")
    return (348).to_bytes(4, "little") + bytes(348) + values.tobytes()


def voxels_of(plain: bytes, shape: tuple[int, int, int] = (20, 40, 30)) -> Any:
    return np.frombuffer(plain, "<i2", offset=352)[: int(np.prod(shape))].reshape(shape)


@pytest.mark.parametrize("ending", ["nii", "nii.gz"])
@pytest.mark.parametrize("permutation", list(itertools.permutations(range(3))))
@pytest.mark.parametrize("signs", [(1, 1, 1), (-1, 1, -1), (1, -1, 1), (-1, -1, -1)])
def test_a_part_is_what_is_cut_from_the_whole(
    tmp_path: Path, permutation: tuple[int, ...], signs: tuple[int, ...], ending: str
) -> None:
    image = NIBABEL.Nifti1Image(
        np.arange(5 * 6 * 7, dtype=np.int16).reshape(5, 6, 7), np.diag([-1.0, -2.0, 3.0, 1.0])
    ).as_reoriented(np.array(list(zip(permutation, signs, strict=True))))
    NIBABEL.save(image, tmp_path / f"a.{ending}")
    header = read_header(tmp_path / f"a.{ending}")
    whole = read_voxels(header)
    for part in (
        (slice(0, 7), slice(0, 6), slice(0, 5)),
        (slice(2, 5), slice(1, 3), slice(0, 4)),
        (slice(6, 7), slice(5, 6), slice(4, 5)),
        (slice(None), slice(-2, None), slice(None, 99)),
        (slice(3, 3), slice(None), slice(None)),
    ):
        read = read_voxels(header, part)
        assert read.dtype == whole.dtype
        assert np.array_equal(read, whole[part])


@given(
    at=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7), level=st.integers(0, 9), keep=st.floats(0, 1)
)
@settings(max_examples=150, deadline=None)
def test_a_damaged_file_gives_its_voxels_or_an_error_never_other_voxels(
    tmp_path_factory: pytest.TempPathFactory, at: float, bit: int, level: int, keep: float
) -> None:
    plain = volume_bytes((4, 10, 10))
    content = bytearray(gzip.compress(plain, level, mtime=0))
    content[int(at * len(content))] ^= 1 << bit
    header = packed_file(
        tmp_path_factory.getbasetemp() / "d.nii.gz", bytes(content[: round(keep * len(content))]), (4, 10, 10)
    )
    try:
        voxels = read_voxels(header)
    except CaseError:
        return
    assert np.array_equal(voxels, voxels_of(plain, (4, 10, 10)))


@pytest.mark.parametrize("place", ["checksum", "length"])
def test_the_checksum_at_the_end_counts_even_for_the_first_slice(tmp_path: Path, place: str) -> None:
    content = bytearray(gzip.compress(volume_bytes()))
    content[-8 if place == "checksum" else -4] ^= 1
    header = packed_file(tmp_path / "a.nii.gz", bytes(content))
    with pytest.raises(CaseError, match="damaged"):
        read_voxels(header, (slice(0, 1), slice(0, 40), slice(0, 30)))
    header = packed_file(tmp_path / "a.nii.gz", gzip.compress(volume_bytes())[:-1])
    with pytest.raises(CaseError, match="ends before its checksum"):
        read_voxels(header)


@pytest.mark.parametrize("cut", [[3], [352, 5000], [200_000, 400_000], list(range(2000, 48_000, 2000))])
@pytest.mark.parametrize("padding", [0, 3, 200_000])
def test_a_file_of_several_gzip_members_is_one_file(tmp_path: Path, cut: list[int], padding: int) -> None:
    shape = (100, 60, 60)
    plain = volume_bytes(shape)
    ends = [0, *cut, len(plain)]
    members = [gzip.compress(plain[a:b], 1) + bytes(padding) for a, b in itertools.pairwise(ends)]
    header = packed_file(tmp_path / "a.nii.gz", b"".join(members), shape)
    assert np.array_equal(read_voxels(header), voxels_of(plain, shape))
    damaged = bytearray(b"".join(members))
    damaged[len(members[0]) - padding - 8] ^= 1
    with pytest.raises(CaseError, match="damaged"):
        read_voxels(packed_file(tmp_path / "b.nii.gz", bytes(damaged), shape))
    with pytest.raises(CaseError, match="truncated"):
        read_voxels(packed_file(tmp_path / "c.nii.gz", b"".join(members[:-1]), shape))


def test_what_follows_the_voxels_is_checked_but_not_kept(tmp_path: Path) -> None:
    plain = volume_bytes() + bytes(5_000_000)
    header = packed_file(tmp_path / "a.nii.gz", gzip.compress(plain))
    assert np.array_equal(read_voxels(header), voxels_of(plain))


def test_a_bomb_goes_off_neither_in_memory_nor_in_time(tmp_path: Path) -> None:
    packer = zlib.compressobj(9, wbits=31)
    content = packer.compress(volume_bytes())
    content += b"".join(packer.compress(bytes(1 << 24)) for _ in range(40)) + packer.flush()
    header = packed_file(tmp_path / "a.nii.gz", content)
    tracemalloc.start()
    try:
        with pytest.raises(CaseError, match="inflates to far more"):
            read_voxels(header)
        assert tracemalloc.get_traced_memory()[1] < 400e6
    finally:
        tracemalloc.stop()
    header = packed_file(tmp_path / "b.nii.gz", gzip.compress(b"") * 100_000)
    with pytest.raises(CaseError, match="too many members"):
        read_voxels(header)


def test_a_volume_larger_than_the_memory_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    header = packed_file(tmp_path / "a.nii.gz", gzip.compress(volume_bytes()))

    def full(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr("phcc_client.imaging.volume.np.empty", full)
    with pytest.raises(CaseError, match="more than this machine has left"):
        read_voxels(header)


def test_a_plain_file_is_read_and_not_mapped(tmp_path: Path) -> None:
    header = packed_file(tmp_path / "a.nii", volume_bytes())
    voxels = read_voxels(header)
    before = voxels.copy()
    os.truncate(header.path, 0)  # under a memory map the next look at the voxels would kill the process
    assert np.array_equal(voxels, before)


def test_a_scale_beyond_all_numbers_gives_infinity_without_a_warning(tmp_path: Path) -> None:
    header = Header(
        tmp_path / "a.nii", Grid.plain((1, 1, 2), (1.0, 1.0, 1.0)), (1, 1, 2), "i2", 352, 3e38, -3e38
    )
    assert header.scaled(np.array([[[900, 0]]], np.int16)).tolist() == [[[np.inf, np.float32(-3e38)]]]
