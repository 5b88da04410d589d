"""``phcc-client ingest`` on a hospital of synthetic patients: time, memory, and a second run with nothing to do.

    python tests/benchmarks/bench_ingest.py --out runs/bench-ingest --patients 500

Each patient has four series of 24 slices of 128 x 128 voxels, one DICOM file a slice, and a mask: 48,000 files
for 500 patients. The command runs in a process of its own, as a hospital runs it; its memory is the largest that
it and its children had together. Synthetic data: it says what the machinery costs.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
from bench import Run, options

sys.path.insert(0, str(Path(__file__).parents[1] / "phcc_client" / "ingest"))
import dicom_maker
from hospital import Hospital

SHAPE = (24, 128, 128)
PLACE = dicom_maker.place((3.0, 2.0, 2.0), (-36.0, -128.0, -128.0))
PROGRAM = Path(sys.executable).with_name("phcc-client")


def make(folder: Path, patients: int) -> tuple[Path, Path]:
    """The export and its table, unless they are there already."""
    export, table = folder / "export", folder / "tables" / "patients.csv"
    if not table.exists():
        made = Hospital(folder, SHAPE, PLACE)
        for number in range(patients):
            made.patient(number, label=int(number % 3 == 0))
            if number % 50 == 0:
                print(f"writing patient {number} of {patients}", flush=True)
        assert made.table == table
    return export, table


def run(words: list[str]) -> tuple[float, float, str]:
    """Seconds, largest memory in MB (children included), and what was said."""
    began = time.monotonic()
    process = psutil.Popen(
        [str(PROGRAM), *words], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    peak = 0.0
    over = threading.Event()

    def watch() -> None:
        nonlocal peak
        while not over.wait(0.2):
            try:
                family = [process, *process.children(recursive=True)]
                peak = max(peak, sum(one.memory_info().rss for one in family) / 2**20)
            except psutil.Error:
                continue

    thread = threading.Thread(target=watch)
    thread.start()
    said, _ = process.communicate()
    over.set()
    thread.join()
    if process.returncode != 0:
        raise SystemExit(said)
    return time.monotonic() - began, peak, said


def main() -> int:
    """Ingest, and ingest again."""
    parser = options(__doc__ or "")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--patients", type=int, default=500)
    parser.add_argument("--registration", default="off")
    asked = parser.parse_args()
    out: Path = asked.out.resolve()
    export, table = make(out / f"hospital-{asked.patients}", asked.patients)
    site = out / f"site-{asked.patients}-{asked.registration}"
    words = ["ingest", str(export), "--into", str(site), "--patients", str(table)]
    words += ["--registration", asked.registration]
    for folder in (site, site.with_name(site.name + ".private")):
        shutil.rmtree(folder, ignore_errors=True)
    seconds, peak, said = run(words)
    searched = next((line for line in said.splitlines() if line.startswith("Searched")), "")
    print(
        f"INGEST {asked.patients} synthetic patients, registration {asked.registration}: {seconds:.0f} s, "
        f"{seconds / asked.patients:.2f} s a patient, {peak:.0f} MB at most. {searched}",
        flush=True,
    )
    again, small, said = run(words)
    assert "Nothing to do" in said, said
    Run.begin(asked).tell("ingest-nothing-to-do", again, 5.0, f"seconds, {small:.0f} MB", at_most=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
