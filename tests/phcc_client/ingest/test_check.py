from __future__ import annotations

import csv
import hashlib
import io
import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from rich.console import Console

from phcc_client.imaging.grid import Grid
from phcc_client.ingest.check import CHECK_FILE, PAGE_FILE, check_site
from phcc_client.ingest.check_print import tell
from phcc_client.ingest.check_result import Check
from phcc_client.ingest.contact_sheet import thumbnail_row
from phcc_client.ingest.duplicates import signature
from phcc_client.ingest.nifti_image import nifti_bytes
from phcc_client.ingest.record import (
    Finding,
    LesionRecord,
    PatientRecord,
    PhaseRecord,
    SeriesRecord,
    Stage,
)
from phcc_client.ingest.settings import IngestSettings
from phcc_client.ingest.site_folder import SiteFolder
from phcc_model.config import PhantomSettings
from phcc_model.errors import DatasetError
from phcc_simulation.phantom.centres import centres_of
from phcc_simulation.phantom.patient import make_patient

NO_PRE = Finding(
    code="no-pre-contrast",
    text="of the phases that are required, pre-contrast is missing",
    remedy="Export the series before contrast, or name it in phases.yaml",
    stops=Stage.PHASES,
)
EMPTY = Finding(
    code="mask-empty",
    text="the mask is empty: no voxel is marked",
    remedy="Draw the lesion again",
    stops=Stage.LESION,
)
UNSURE = Finding(code="series-unsure", text="series 9 may be arterial or portal-venous",
                 remedy="Say in phases.yaml which phase it is")  # fmt: skip


def name(number: int) -> str:
    return f"P-{hashlib.sha256(str(number).encode()).hexdigest()[:16]}"


def stopped(number: int, finding: Finding, reached: Stage, label: int = 1) -> PatientRecord:
    series = SeriesRecord(number=1, taken_for=None, rule="nothing told", certainty="unsure", used=False)
    return PatientRecord.model_validate(
        {
            "patient": name(number),
            "inputs": "",
            "reached": reached,
            "label": label,
            "findings": (finding,),
            "series": (series,),
        }
    )


def usable(site: Path, number: int, label: int = 1, findings: Sequence[Finding] = ()) -> PatientRecord:
    """A phantom patient as an ingest writes it."""
    profile, _ = centres_of(PhantomSettings())[number % 4]
    patient = make_patient(PhantomSettings(), profile, number)
    pseudonym = name(number)
    folder = f"images/{pseudonym}"
    (site / folder).mkdir(parents=True)
    grid = Grid.plain(profile.shape_zyx, profile.spacing_zyx)
    mask = (patient.labels_zyx > 0).astype(np.uint8)
    sums = {}
    volumes: dict[str, NDArray[np.generic]] = {"lesion-1": mask}
    volumes.update({phase: image.volume_zyx for phase, image in patient.images.items()})
    for stem, array in volumes.items():
        file = site / folder / f"{stem}.nii.gz"
        file.write_bytes(nifti_bytes(array, grid))
        sums[stem] = hashlib.sha256(file.read_bytes()).hexdigest()
    phases = tuple(
        PhaseRecord(
            phase=phase,
            file=f"{folder}/{phase}.nii.gz",
            sha256=sums[phase],
            pixels=hashlib.sha256(image.volume_zyx.tobytes()).hexdigest(),
            aligned="reference" if i == 0 else "rigid",
            shift_mm=1.5 * i,
            residual_mm=None if i == 0 else 0.4,
        )
        for i, (phase, image) in enumerate(patient.images.items())
    )
    first = next(iter(patient.images))
    centre = grid.to_mm(np.array(patient.images[first].box.centre_zyx))
    views = {phase: (image.volume_zyx, grid) for phase, image in patient.images.items()}
    row = thumbnail_row(views, mask, grid, pseudonym=pseudonym, label=label)
    (site / "contact").mkdir(exist_ok=True)
    (site / f"contact/{pseudonym}.png").write_bytes(row)
    series = tuple(
        SeriesRecord(
            number=i + 1,
            taken_for=phase,
            rule=f"description says '{phase}'",
            certainty="sure",
            used=True,
            shape_dhw=profile.shape_zyx,
            spacing_mm_dhw=profile.spacing_zyx,
            seconds_after_first=30.0 * i,
        )
        for i, phase in enumerate(patient.images)
    )
    lesion = LesionRecord(
        case=f"{pseudonym}-1",
        mask=f"{folder}/lesion-1.nii.gz",
        sha256=sums["lesion-1"],
        drawn_on=first,
        volume_ml=3.0,
        centre_mm_zyx=(float(centre[0]), float(centre[1]), float(centre[2])),
    )
    return PatientRecord.model_validate(
        {
            "patient": pseudonym,
            "inputs": "",
            "reached": Stage.USABLE,
            "label": label,
            "findings": tuple(findings),
            "phases": phases,
            "series": series,
            "lesions": (lesion,),
            "signature": signature(patient.images[first].volume_zyx, grid, centre),
            "thumbnails": f"contact/{pseudonym}.png",
        }
    )


def write_site(site: Path, records: Sequence[PatientRecord]) -> None:
    folder = SiteFolder(site)
    (site / "records").mkdir(parents=True, exist_ok=True)
    folder.write_about(IngestSettings())
    for record in records:
        (site / "records" / f"{record.patient}.json").write_text(record.model_dump_json())
    folder.write_table(records, "proliferative")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    site = tmp_path_factory.mktemp("made") / "SITE"
    site.mkdir()
    write_site(
        site,
        [
            usable(site, 0, 1),
            usable(site, 1, 0, [UNSURE]),
            usable(site, 2, -1),
            stopped(10, NO_PRE, Stage.MR_LIVER),
            stopped(11, NO_PRE, Stage.MR_LIVER, 0),
            stopped(12, EMPTY, Stage.PHASES),
        ],
    )
    return site


@pytest.fixture
def site(made: Path, tmp_path: Path) -> Path:
    """A site of a test's own, to be spoiled."""
    return Path(shutil.copytree(made, tmp_path / "SITE"))


def codes(check: Check) -> list[str]:
    return [
        *(problem.code for problem in check.problems),
        *(reason.code for reason in check.funnel.reasons),
        *(remark.code for remark in check.remarks),
    ]


def printed(check: Check) -> str:
    paper = io.StringIO()
    tell(check, Console(width=120, file=paper), Path("SITE/check.html"))
    return paper.getvalue()


def test_a_sound_site_is_counted_and_everyone_who_dropped_out_has_a_remedy(site: Path) -> None:
    check = check_site(site)
    assert check.sound
    assert check.attention
    assert (check.patients, check.cases) == (6, 3)
    assert [(c.stage, c.total, c.pretraining_only) for c in check.funnel.stages][-3:] == [
        (Stage.LESION, 3, 0),
        (Stage.LABEL, 2, 1),
        (Stage.USABLE, 2, 1),
    ]
    assert codes(check) == ["no-pre-contrast", "mask-empty", "series-unsure"]
    assert all(one.remedy for one in check.funnel.dropouts)
    assert Check.model_validate_json((site / CHECK_FILE).read_text()) == check


def test_the_page_says_it_all_and_asks_for_nothing(site: Path) -> None:
    check_site(site)
    page = (site / PAGE_FILE).read_text()
    for patient in (name(0), name(10), name(12)):
        assert f'id="{patient}"' in page
    assert NO_PRE.text in page
    assert EMPTY.remedy in page
    assert "description says &#39;arterial&#39;" in page
    assert "<script" not in page
    assert "http" not in page.replace("http-equiv", "")


def test_the_same_folder_gives_the_same_bytes(site: Path) -> None:
    check_site(site)
    first = {file.name: file.read_bytes() for file in sorted(site.iterdir()) if file.is_file()}
    check_site(site, jobs=3)
    assert {file.name: file.read_bytes() for file in sorted(site.iterdir()) if file.is_file()} == first
    moved = site.rename(site.with_name("elsewhere"))
    check_site(moved)
    assert {file.name: file.read_bytes() for file in sorted(moved.iterdir()) if file.is_file()} == first


def test_the_screen_names_the_reasons_and_the_page(site: Path) -> None:
    text = printed(check_site(site))
    for words in ("MR liver", "+ 1 for pre-training only", "no-pre-contrast", NO_PRE.remedy, "check.html"):
        assert words in text
    assert "no study has been prepared" in text


def test_used_comes_from_the_prepared_study(site: Path) -> None:
    check = check_site(site, used={f"{name(0)}-1": True, f"{name(1)}-1": False})
    last = check.funnel.stages[-1]
    assert (last.stage, last.total, last.pretraining_only) == (Stage.USED, 1, 0)
    assert check.funnel.not_used == tuple(sorted([name(1), name(2)]))
    assert "no study has been prepared" not in printed(check)


def test_a_missing_and_an_altered_file_drop_their_patients(site: Path) -> None:
    (site / f"images/{name(0)}/arterial.nii.gz").unlink()
    with (site / f"images/{name(1)}/lesion-1.nii.gz").open("ab") as file:
        file.write(b"\0")
    check = check_site(site)
    assert not check.sound
    assert {"file-missing", "file-altered", "listed-though-stopped"} <= set(codes(check))
    assert check.funnel.stages[-1].total == 0


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff\xfe", b'{"patient": "P-1"}', b"null"])
def test_a_damaged_record_costs_its_patient_and_no_other(site: Path, content: bytes) -> None:
    (site / f"records/{name(0)}.json").write_bytes(content)
    check = check_site(site)
    assert check.patients == 6
    assert "record-damaged" in codes(check)
    assert check.funnel.stages[-1].total == 1


def test_a_record_under_another_name_is_damaged(site: Path) -> None:
    (site / f"records/{name(0)}.json").rename(site / "records/P-0000000000000000.json")
    check = check_site(site)
    assert not check.sound
    assert "record-damaged" in codes(check)


def test_a_path_that_leads_out_of_the_folder_is_not_opened(site: Path) -> None:
    file = site / f"records/{name(0)}.json"
    file.write_text(file.read_text().replace(f"images/{name(0)}/arterial", "../../../etc/arterial"))
    check = check_site(site)
    assert "file-missing" in codes(check)
    assert any("outside the site" in one.text for one in check.funnel.dropouts)


def edit_table(site: Path, change: Mapping[str, str], case: str) -> None:
    with (site / "cases.csv").open() as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        if row["case"] == case:
            row.update(change)
    with (site / "cases.csv").open("w") as file:
        table = csv.DictWriter(file, rows[0])
        table.writeheader()
        table.writerows(rows)


def test_labels_that_are_none_and_labels_that_were_changed_are_found(site: Path) -> None:
    edit_table(site, {"proliferative": "maybe, says Dr Meier"}, f"{name(0)}-1")
    edit_table(site, {"proliferative": "1"}, f"{name(1)}-1")
    check = check_site(site)
    assert {"label-invalid", "label-differs"} <= set(codes(check))
    (dropout,) = (one for one in check.funnel.dropouts if one.code == "label-invalid")
    assert (dropout.patient, dropout.stage) == (name(0), Stage.LABEL)
    for file in (CHECK_FILE, PAGE_FILE):
        assert "Meier" not in (site / file).read_text()


def test_rows_that_do_not_fit_the_records_are_found(site: Path) -> None:
    edit_table(site, {"case": "Hans Meier"}, f"{name(0)}-1")
    edit_table(site, {"patient": name(2)}, f"{name(1)}-1")
    check = check_site(site)
    assert codes(check).count("row-unknown") == 2
    assert "case-unlisted" in codes(check)
    assert not check.sound
    assert "Meier" not in (site / CHECK_FILE).read_text()


def test_a_table_that_is_gone_and_files_of_nobody_are_said(site: Path) -> None:
    (site / "cases.csv").unlink()
    (site / "images/Meier_Hans.nii.gz").write_bytes(b"")
    check = check_site(site)
    assert [problem.code for problem in check.problems] == ["strange-files", "table-unusable"]
    assert "Meier" not in (site / PAGE_FILE).read_text()


def test_duplicates_are_found_across_patients(site: Path) -> None:
    copied = json.loads((site / f"records/{name(0)}.json").read_text())
    other = json.loads((site / f"records/{name(1)}.json").read_text())
    other["signature"] = copied["signature"]
    other["phases"][0]["pixels"] = copied["phases"][0]["pixels"]
    other["label"] = copied["label"]
    (site / f"records/{name(1)}.json").write_text(json.dumps(other))
    check = check_site(site)
    assert {"duplicate-identical", "listed-though-stopped"} <= set(codes(check))
    assert len([d for d in check.funnel.dropouts if d.code == "duplicate-identical"]) == 1


def test_what_is_no_site_is_refused_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="no ingested site"):
        check_site(tmp_path)
    SiteFolder(tmp_path).write_about(IngestSettings())
    check = check_site(tmp_path)
    assert {"no-patients", "table-unusable"} == set(codes(check))
    assert "No patient was found" in (tmp_path / PAGE_FILE).read_text()


@given(text=st.text(max_size=60), remedy=st.text(max_size=30))
@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_whatever_a_finding_says_stays_text(tmp_path: Path, text: str, remedy: str) -> None:
    nasty = Finding(code="x", text=f"<script>alert(1)</script>[red]{text}", remedy=remedy, stops=Stage.PHASES)
    try:
        write_site(tmp_path, [stopped(1, nasty, Stage.MR_LIVER)])
    except UnicodeEncodeError:
        return
    check = check_site(tmp_path)
    assert "<script" not in (tmp_path / PAGE_FILE).read_text()
    assert "[red]" in printed(check)
