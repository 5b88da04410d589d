"""Archives of made-up curves in the layout of the rats' data: not rats, but the same files."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from phcc_simulation.real.dmr import Recording

ARRIVAL_S, STEP_S, SAMPLES, BEFORE = 285.0, 57.0, 30, 4


def curve(peak: float, base: float = 3.0, samples: int = SAMPLES) -> np.ndarray:
    """Flat before the bolus, then up within three minutes and slowly down."""
    minutes = (STEP_S * np.arange(samples) - ARRIVAL_S) / 60.0
    after = np.clip(minutes, 0.0, None)
    return base * (1.0 + peak * (1.0 - np.exp(-after)) * np.exp(-after / 30.0))


def recording(signal: np.ndarray | None = None, time: np.ndarray | None = None, **changes: str) -> Recording:
    signal = curve(1.5) if signal is None else signal
    time = STEP_S * np.arange(len(signal)) if time is None else time
    told = {"n0": str(BEFORE), "BAT": str(ARRIVAL_S), "center": "A", "substance": "Placebo"} | changes
    known = {name: value for name, value in told.items() if value}
    return Recording("a.dmr.zip", "R1", "Day_1", {"time": time, "liver": signal}, known)


def write_archive(path: Path, recordings: Sequence[tuple[str, str, np.ndarray, Mapping[str, str]]]) -> Path:
    """Write subjects' visits: subject, visit, liver's curve, parameters."""
    columns = []
    parameters = ["subject,study,parameter,value"]
    for subject, visit, signal, told in recordings:
        columns.append([subject, visit, "time", *(f"{STEP_S * k}" for k in range(len(signal)))])
        columns.append([subject, visit, "liver", *map(str, signal)])
        known = {"n0": str(BEFORE), "BAT": str(ARRIVAL_S)} | dict(told)
        parameters += [f"{subject},{visit},{name},{value}" for name, value in known.items()]
    height = max(map(len, columns))
    rows = [[column[i] if i < len(column) else "" for column in columns] for i in range(height)]
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("rois.csv", "\n".join(",".join(row) for row in rows) + "\n")
        archive.writestr("pars.csv", "\n".join(parameters) + "\n")
    return path


def write_centres(folder: Path, centres: str = "ABC", animals: int = 6, seed: int = 0) -> Path:
    """A file per centre: animals on placebo, half of them then on rifampicin, which lowers the curve."""
    source = np.random.default_rng(seed)
    for number, centre in enumerate(centres):
        found = []
        for animal in range(animals):
            for visit in (1, 2):
                inhibited = visit == 2 and animal % 2 == 0
                peak = (0.5 if inhibited else 1.5) * np.exp(0.1 * source.standard_normal())
                signal = curve(peak, base=10.0**number) * np.exp(0.01 * source.standard_normal(SAMPLES))
                told = {"center": centre, "substance": "Rifampicin" if inhibited else "Placebo"}
                found.append((f"S-{animal}", f"Day_{visit}", signal, told))
        write_archive(folder / f"study_{centre}.dmr.zip", found)
    return folder
