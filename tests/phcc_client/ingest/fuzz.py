"""``make fuzz``: 2,000 spoilt inputs through ``phcc-client ingest``: no crash, no hang, nobody else harmed.

    python tests/phcc_client/ingest/fuzz.py --out runs/fuzz --batches 100

A batch is a hospital of twenty spoilt patients between two good ones: bytes exchanged, cut or doubled, headers
with values that nobody should write, masks and tables and annotations likewise. Expected: one readable line or a
record with a reason for each, both good patients usable, nothing written outside the site, no batch slower than
ten seconds a spoilt patient. One line a batch that fails, with the seed that makes it again.
"""

from __future__ import annotations

import argparse
import contextlib
import gzip
import io
import json
import random
import shutil
import struct
import sys
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hospital import SHAPE, Hospital, examination, write_mask
from pydicom import Dataset, dcmread
from pydicom.sequence import Sequence as Items

from phcc_client.cli import app
from phcc_client.imaging.grid import Grid
from phcc_client.ingest.nifti_image import nifti_bytes
from phcc_client.ingest.record import Stage
from phcc_client.ingest.site_folder import SiteFolder
from phcc_model.command_line import run_program

SPOILT = 20
SECONDS = 10.0
ODD_TEXT = (
    *(
        "",
        " ",
        "../../../tmp/x",
        "/etc/passwd",
        "a\\b\\c",
        "x" * 5000,
        "\x1b[31mred",
        "<script>alert(1)</script>",
    ),
    *(
        "Müller^Änne",
        "=1+1",
        "NaN",
        "-1",
        "0",
        "1e999",
        "2024-13-45",
        "P-0000000000000000",
        "{{7*7}}",
        "%s%n",
        "null",
    ),
)
ODD_TAGS: tuple[tuple[str, tuple[Any, ...]], ...] = (
    ("Rows", (0, 1, 65535)),
    ("Columns", (0, 1, 65535)),
    ("BitsAllocated", (1, 12, 32, 64)),
    ("BitsStored", (0, 1, 40)),
    ("HighBit", (0, 63)),
    ("SamplesPerPixel", (0, 3, 99)),
    ("PixelRepresentation", (1, 7)),
    ("NumberOfFrames", ("0", "-3", "999999999", "2")),
    ("PhotometricInterpretation", ("RGB", "XYZ", "", "MONOCHROME1", "PALETTE COLOR")),
    ("PixelSpacing", ([], ["0", "0"], ["1", "-1"], ["1e-9", "1"], ["1e9", "1e9"])),
    ("ImagePositionPatient", ([], ["0", "0", "0"], ["1e300", "0", "0"])),
    ("ImageOrientationPatient", ([], ["1", "0", "0", "1", "0", "0"], ["0"] * 6, ["2", "0", "0", "0", "2", "0"])),
    ("RescaleSlope", ("0", "-1", "1e38")),
    ("RescaleIntercept", ("1e38",)),
    ("AcquisitionTime", ("", "999999", "12")),
    ("ContentTime", ("240000.000", "")),
    ("AcquisitionDate", ("00000000", "20240230")),
    ("TemporalPositionIdentifier", ("-1", "1", "99999")),
    ("TriggerTime", ("-5", "1e30")),
    ("EchoTime", ("0", "-1")),
    ("InstanceNumber", ("", "-7", "2147483647")),
    ("SeriesInstanceUID", ("", "1.2", "not a uid")),
    ("StudyInstanceUID", ("", "1.2.3")),
    ("SOPInstanceUID", ("", "1")),
    ("SOPClassUID", ("", "1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.5.1.4.1.1.66.4", "9.9")),
    ("Modality", ("", "CT", "SEG", "MR\\CT", "XX")),
    ("ImageType", ([], ["DERIVED", "SECONDARY"], ["ORIGINAL", "PRIMARY", "P", "ND"])),
    ("BurnedInAnnotation", ("YES",)),
    ("PatientID", ODD_TEXT[:8]),
    ("PatientName", ODD_TEXT),
    ("SeriesDescription", ODD_TEXT),
    ("SpecificCharacterSet", ("ISO_IR 192", "ISO 2022 IR 87", "nonsense", "")),
    ("FrameOfReferenceUID", ("", "1.2.3")),
)  # fmt: skip


def spoil_bytes(content: bytes, draw: random.Random) -> bytes:
    """Bytes exchanged, cut off, doubled, blanked or put in."""
    data = bytearray(content)
    kind = draw.randrange(6)
    at = draw.randrange(len(data)) if data else 0
    if kind == 0:
        for _ in range(draw.choice((1, 5, 50))):
            data[draw.randrange(len(data))] = draw.randrange(256)
    elif kind == 1:
        del data[at:]
    elif kind == 2:
        data[at:at] = data[at : at + draw.randrange(1, 4000)]
    elif kind == 3:
        end = min(len(data), at + draw.randrange(1, 4000))
        data[at:end] = bytes(end - at)
    elif kind == 4:
        data[at:at] = draw.randbytes(draw.randrange(1, 300))
    else:  # the beginning, where headers are
        for _ in range(draw.choice((1, 3, 20))):
            data[draw.randrange(min(len(data), 1500))] = draw.randrange(256)
    return bytes(data)


def spoil_dicom(folder: Path, draw: random.Random) -> None:
    """One patient's files: bytes, or headers that can be read and should not be believed."""
    files = sorted(p for p in folder.rglob("*") if p.is_file())
    chosen = draw.choice((files[:1], files, draw.sample(files, min(5, len(files)))))
    if draw.random() < 0.4:
        for file in chosen:
            file.write_bytes(spoil_bytes(file.read_bytes(), draw))
        return
    changes = [
        (name, draw.choice(values)) for name, values in draw.sample(ODD_TAGS, draw.choice((1, 1, 2, 5)))
    ]
    deep = draw.random() < 0.1
    for file in chosen:
        dataset = dcmread(file)
        for name, value in changes:
            if draw.random() < 0.15:
                dataset.pop(name, None)
            else:
                with contextlib.suppress(ValueError, TypeError, OverflowError):
                    setattr(dataset, name, value)
        if deep:
            dataset.RequestAttributesSequence = Items([_nested(60)])
        with contextlib.suppress(Exception):  # what cannot be written is no input
            dataset.save_as(file)


def _nested(depth: int) -> Dataset:
    item = Dataset()
    if depth:
        item.ReferencedStudySequence = Items([_nested(depth - 1)])
    return item


def spoil_nifti(path: Path, draw: random.Random) -> None:
    """A mask: its packed bytes, or a header that does not hold."""
    if draw.random() < 0.4:
        path.write_bytes(spoil_bytes(path.read_bytes(), draw))
        return
    plain = bytearray(gzip.decompress(path.read_bytes()))
    offset, kind, values = draw.choice((
        (40, "<8h", (3, -1, 5, 5, 1, 1, 1, 1)), (40, "<8h", (7, 9, 9, 9, 9, 9, 9, 9)), (42, "<h", (32767,)),
        (70, "<h", (draw.randrange(2000),)), (72, "<h", (64,)), (76, "<4f", (1.0, 0.0, 0.0, 0.0)),
        (108, "<f", (draw.choice((0.0, 1e9, -5.0, float("nan"))),)), (112, "<f", (float("nan"),)),
        (112, "<2f", (1e38, 1e38)), (280, "<12f", (0.0,) * 12), (280, "<4f", (float("nan"),) * 4),
        (344, "<4s", (b"xx1\0",)), (0, "<i", (540,)),
    ))  # fmt: skip
    struct.pack_into(kind, plain, offset, *values)
    path.write_bytes(gzip.compress(bytes(plain), mtime=0))


def spoil_text(text: str, draw: random.Random) -> str:
    """A table or an annotation: cells exchanged, cut, or filled with what people and programs write."""
    kind = draw.randrange(5)
    at = draw.randrange(len(text))
    if kind == 0:
        return text[:at]
    if kind == 1:
        return text[:at] + draw.choice(ODD_TEXT) + text[at + 1 :]
    if kind == 2:
        return text.replace(draw.choice(';,:\n"[{0123'), draw.choice(ODD_TEXT[:8]), draw.choice((1, 3)))
    if kind == 3:
        return text[:at] + text[at : at + 200] * 3 + text[at:]
    return (
        text[:at]
        + "".join(chr(draw.choice((0, 7, 34, 39, 0x202E, 0xFFFD, 0x1F600))) for _ in range(3))
        + text[at:]
    )


def dicom_batch(folder: Path, draw: random.Random) -> tuple[Path, Path | None, set[str]]:
    """Twenty spoilt patients between two good ones; now and then the table is spoilt too."""
    made = Hospital(folder)
    good = {made.patient(1), made.patient(99, lesion="box")}
    for number in range(2, 2 + SPOILT):
        options: dict[str, Any] = {"lesion": draw.choice(("mask", "mask", "seg", "box", "none"))}
        if draw.random() < 0.2:
            options["multiframe"] = True
        if draw.random() < 0.2:
            options["transfer_syntax"] = draw.choice(COMPRESSED)
        made.patient(number, **options)
        mask = made.tables / f"{number}.nii.gz"
        if mask.exists() and draw.random() < 0.4:
            spoil_nifti(mask, draw)
        else:
            spoil_dicom(made.export / f"{number:04d}", draw)
    table = made.table
    if draw.random() < 0.25:
        table.write_text(spoil_text(table.read_text(), draw), errors="surrogateescape")
        good = set()
    return made.export, table, good


COMPRESSED = (
    "1.2.840.10008.1.2.5",
    "1.2.840.10008.1.2.4.70",
    "1.2.840.10008.1.2.4.80",
    "1.2.840.10008.1.2.4.90",
)
"""RLE, JPEG lossless, JPEG-LS, JPEG 2000."""


def nifti_batch(folder: Path, draw: random.Random) -> tuple[Path, Path | None, set[str]]:
    """The same as NIfTI with ``cases.csv``, or as LLD-MMRI's raw layout."""
    source = folder / "export"
    lld = draw.random() < 0.5
    grid = Grid.plain(SHAPE, (4.0, 2.5, 2.5))
    rows, annotation = ["case,patient,proliferative,mask,pre-contrast,arterial,portal-venous"], {}
    for number in range(1, 3 + SPOILT):
        phases, mask = examination(number % 3)
        patient = f"PAT-{number:04d}"
        entries, names = [], []
        for place, image in enumerate(list(phases.values())[:3]):
            name = f"images/{patient}/study/{place}.nii.gz"
            path = source / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(nifti_bytes(image + number, grid))
            if number > 2 and draw.random() < 0.4:
                spoil_nifti(path, draw)
            names.append(name)
            corners = {"x_min": 10, "x_max": 30, "y_min": 10, "y_max": 30, "z_min": 3, "z_max": 9}
            entries.append({
                "studyUID": "study", "seriesUID": str(place), "phase": ("C-pre", "C+A", "C+V")[place],
                "pixel_spacing": [2.5, 2.5], "slice_thickness": 4.0,
                "annotation": {"lesion": {"0": {"category": "HCC", "bbox": {"3D_box": corners}}}},
            })  # fmt: skip
        write_mask(source / f"masks/{number}.nii.gz", mask, grid)
        rows.append(f"{patient}-1,{patient},{number % 2},masks/{number}.nii.gz,{','.join(names)}")
        annotation[patient] = entries
    good = {"PAT-0001"}
    text = json.dumps({"Annotation_info": annotation, "Category_info": {}}) if lld else "\n".join(rows)
    if draw.random() < 0.5:
        text, good = spoil_text(text, draw), set()
    table = source / ("labels/Annotation.json" if lld else "cases.csv")
    table.parent.mkdir(exist_ok=True)
    table.write_text(text, errors="surrogateescape")
    return source, None, good


def run_batch(folder: Path, seed: int) -> list[str]:
    """What is wrong with one batch, in words; empty if nothing is."""
    draw = random.Random(seed)
    batch = dicom_batch if draw.random() < 0.75 else nifti_batch
    source, table, good = batch(folder, draw)
    before = set(folder.rglob("*"))
    site = folder / "out" / "site"
    words = ["ingest", str(source), "--into", str(site), "--registration", "off", "--jobs", "2"]
    words += ["--patients", str(table)] if table else []
    out, err = io.StringIO(), io.StringIO()
    began = time.monotonic()
    code = _command(words, out, err)
    seconds = time.monotonic() - began
    return _complaints(folder, site, good, before, code, seconds, out.getvalue() + err.getvalue())


def _command(words: Sequence[str], out: io.StringIO, err: io.StringIO) -> int:
    from phcc_client.ingest import commands
    from phcc_model import command_line

    consoles = [(commands.console, out), (command_line.errors, err)]
    before = [console.file for console, _ in consoles]
    for console, stream in consoles:
        console.file = stream
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            return run_program(app, words)
    finally:
        for (console, _), file in zip(consoles, before, strict=True):
            console.file = file


def _complaints(
    folder: Path, site: Path, good: set[str], before: set[Path], code: int, seconds: float, said: str
) -> list[str]:
    wrong = []
    if code not in (0, 1):
        wrong.append(f"exit code {code}")
    if "fault of the program" in said or "Traceback" in said:
        wrong.append(f"a fault: {said[-600:]}")
    if seconds > SECONDS * SPOILT:
        wrong.append(f"took {seconds:.0f} s")
    allowed = (site, site.with_name("site.private"))
    strange = [
        p for p in folder.rglob("*") if p not in before and not any(p.is_relative_to(a) for a in allowed)
    ]
    strange = [p for p in strange if p != site.parent]
    if strange:
        wrong.append(f"wrote {strange[:3]}")
    records = SiteFolder(site).records() if code == 0 or (site / "records").exists() else ()
    faults = [f"{r.patient}: {f.text}" for r in records for f in r.findings if f.code == "program-fault"]
    if faults:
        log = (site.with_name("site.private") / "ingest.log").read_text()
        wrong.append(f"{faults[:3]} {log[-1500:]}")
    if code == 0 and good:
        import csv

        with (site.with_name("site.private") / "patients.csv").open(newline="") as file:
            names = {row["patient"]: row["reached"] for row in csv.DictReader(file)}
        bad = {name: names.get(name) for name in good if names.get(name) != Stage.USABLE.value}
        if bad:
            wrong.append(f"good patients harmed: {bad}")
    elif good and code != 0:
        wrong.append(f"good patients harmed, exit code {code}: {said[-400:]}")
    return wrong


def main() -> int:
    """Run batches; one line for each that fails."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--batches", type=int, default=100)
    parser.add_argument("--first", type=int, default=0, help="seed of the first batch")
    asked = parser.parse_args()
    failed = 0
    began = time.monotonic()
    warnings.simplefilter("ignore")  # pydicom's, of what is written here on purpose
    for seed in range(asked.first, asked.first + asked.batches):
        folder = asked.out.resolve() / f"batch-{seed}"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        wrong = run_batch(folder, seed)
        failed += bool(wrong)
        for line in wrong:
            print(f"FUZZ batch {seed}: {line}", flush=True)
        if not wrong:
            shutil.rmtree(folder)
    seconds = time.monotonic() - began
    patients = asked.batches * SPOILT
    print(f"FUZZ {patients} spoilt patients in {asked.batches} batches, {failed} failed, {seconds:.0f} s")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
