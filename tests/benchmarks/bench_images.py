"""Images, beside MONAI: a case from its files to its crop, the same crop from the cache, waiting in an epoch.

``.venv/bin/python tests/benchmarks/bench_images.py``; about two minutes. Both sides read the same four gzip
files, warm in the page cache, in one process with the same number of threads. MONAI's chain is Load,
EnsureChannelFirst, Orientation, Spacing, SpatialCrop and Concat, as a careful user writes it, and nothing more;
our side hashes the sources, normalises, and stores the crop as well. That both cut the same crop is checked
first. Two threads work on two cases side by side, MONAI's also on one case after the other, and its better
way counts.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # the launcher's environment is not what an ingest has

import shutil
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import torch
from bench import Run, in_turns, of_turns, options, peak_mib, ratio
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from phcc_client.imaging.cache import load, store
from phcc_client.imaging.case import Box, PhaseImage, PreparedCase, RawCase, Reading
from phcc_client.imaging.dataset import Entry, prepare_all
from phcc_client.imaging.preprocess import prepare
from phcc_client.site import Site, write_site
from phcc_model.build import build_autoencoder, build_classifier
from phcc_model.config import DataSettings, Phase, StudyConfig
from phcc_model.study_file import load_study
from phcc_model.training import batches, finetune_round, pretrain_round

PHASES: tuple[Phase, ...] = ("pre-contrast", "arterial", "portal-venous", "delayed")
SHAPE, SPACING = (72, 320, 320), (3.0, 1.25, 1.25)
CROP_SPACING = (3.0, 1.5, 1.5)
BOX = Box((26, 130, 126), (46, 177, 181))
"""About index (35.5, 153, 153), where MONAI's resampled grid and the crop's have their voxels in common."""
CASES = 4
DEMO = Path(__file__).parents[2] / "configs" / "demo.yaml"


def settings(depth: int, **changes: object) -> DataSettings:
    """A study with crops of this depth."""
    crop = {"size": (depth, 96, 96), "spacing_mm": CROP_SPACING}
    return DataSettings.model_validate({"phases": PHASES, "crop": crop, "source": "nifti-csv", **changes})


def write_case(folder: Path, seed: int) -> RawCase:
    """Four phases of a body with texture, vessels' brightness by phase, and noise; gzip as nibabel writes it."""
    rng = np.random.default_rng(seed)
    z, y, x = (np.linspace(-1, 1, n, dtype=np.float32) for n in SHAPE)
    body = (y[:, None] / 0.75) ** 2 + (x / 0.9) ** 2 < 1
    texture = gaussian_filter(rng.standard_normal(SHAPE, dtype=np.float32), (2, 6, 6))
    texture *= 60 / texture.std()
    images: dict[Phase, PhaseImage] = {}
    for i, phase in enumerate(PHASES):
        signal = body * (300 + texture + 80 * i) * (1 - 0.2 * z[:, None, None] ** 2)
        noisy = np.hypot(signal, 12 * rng.standard_normal(SHAPE, dtype=np.float32)).astype(np.int16)
        path = folder / f"{seed}-{phase}.nii.gz"
        affine = np.diag([-SPACING[2], -SPACING[1], SPACING[0], 1.0])
        nibabel.save(nibabel.Nifti1Image(noisy.transpose(2, 1, 0), affine), path)  # type: ignore[no-untyped-call]
        images[phase] = PhaseImage(phase, path, box=BOX if i == 0 else None)
    return RawCase(str(seed), str(seed), images, label=seed % 2)


def monai_chain(depth: int) -> Callable[[RawCase], Any]:
    """MONAI's chain, built once: of a case it makes (4, W, H, D)."""
    monai: Any = import_module("monai.transforms")
    keys = list(PHASES)
    centre_mm = [c * s for c, s in zip((35.5, 153, 153), SPACING, strict=True)]
    # SpatialCrop begins at centre - size // 2: half a voxel before the middle of a crop of even size.
    centre = [round(mm / s + 0.5) for mm, s in zip(centre_mm, CROP_SPACING, strict=True)]
    chain = monai.Compose(
        [
            monai.LoadImaged(keys, reader="NibabelReader"),
            monai.EnsureChannelFirstd(keys),
            monai.Orientationd(keys, axcodes="LPS", labels=(("L", "R"), ("P", "A"), ("I", "S"))),
            monai.Spacingd(keys, pixdim=CROP_SPACING[::-1], mode="bilinear"),
            monai.SpatialCropd(keys, roi_center=centre[::-1], roi_size=(96, 96, depth)),
            monai.ConcatItemsd(keys, "image"),
        ]
    )
    return lambda raw: chain({phase: str(raw.images[phase].path) for phase in PHASES})["image"]


def largest_difference(raw: RawCase, depth: int) -> tuple[float, float]:
    """Between the two crops in the images' units, and the spread of the image itself."""
    theirs: NDArray[np.float32] = np.asarray(monai_chain(depth)(raw)).transpose(0, 3, 2, 1)
    ours = prepare(raw, settings(depth, normalisation="none")).volumes_pdhw.astype(np.float32)
    # MONAI's LPS array runs to the left, to the back, to the head, as ours does.
    return float(np.abs(theirs - ours).max()), float(ours.std())


def cold(raws: list[RawCase], depth: int, repeats: int, run: Run, folder: Path) -> float:
    """Cold ingest beside MONAI at 1 and 2 threads; returns MONAI's seconds a case with one."""
    chain = monai_chain(depth)
    alone = 0.0
    for threads in (1,) if run.tiny else (1, 2):
        some = raws[:threads]

        def ours(some: list[RawCase] = some, jobs: int = threads) -> None:
            shutil.rmtree(folder / "cold", ignore_errors=True)
            prepare_all(Reading(tuple(some)), settings(depth), folder / "cold", jobs=jobs)

        sides: dict[str, Callable[[], object]] = {
            "ours": ours,
            "monai": partial(_one_by_one, chain, some, threads),
        }
        if threads == 2:
            sides["monai side by side"] = partial(_side_by_side, chain, some)
        times = in_turns(sides, repeats)
        theirs = min((t for name, t in times.items() if name != "ours"), key=lambda t: t.wall)
        alone = alone or theirs.wall
        told = ", ".join(f"{name} {1e3 * t.wall / threads:.0f} ms" for name, t in times.items())
        run.tell(
            f"images-cold-4x{depth}x96x96-{threads}-thread{'s' * (threads > 1)}",
            ratio(theirs, times["ours"]),
            8,
            f"a case: {told}; by CPU time {theirs.cpu / times['ours'].cpu:.1f}",
        )
    return alone


def _one_by_one(chain: Callable[[RawCase], Any], raws: list[RawCase], threads: int) -> None:
    torch.set_num_threads(threads)
    for raw in raws:
        chain(raw)
    torch.set_num_threads(1)


def _side_by_side(chain: Callable[[RawCase], Any], raws: list[RawCase]) -> None:
    with ThreadPoolExecutor(len(raws)) as pool:
        list(pool.map(chain, raws))


def warm(raws: list[RawCase], depth: int, monai: float, run: Run, folder: Path) -> None:
    """The crop from the cache, its checksum compared, as training reads it."""
    entries = prepare_all(Reading(tuple(raws)), settings(depth), folder / "warm").entries
    keys = [entry.key for entry in entries]

    def read() -> None:
        for key in keys:
            assert load(folder / "warm", key) is not None

    read_in = [wall / len(keys) for wall in in_turns({"read": read}, 25)["read"].walls]
    times = of_turns([monai / each for each in read_in])
    detail = f"1 thread: {1e3 * monai / times.value:.2f} ms, MONAI cold {1e3 * monai:.0f} ms"
    run.tell(f"images-warm-4x{depth}x96x96", times, 200, detail)


@contextmanager
def timed_batches(waited: list[float]) -> Iterator[None]:
    """Every making of a batch from the loaded cases counts as waiting."""
    batch: Any = batches.Batch
    original = batch.of

    def of(*arguments: Any) -> object:
        begun = time.perf_counter()
        made: object = original(*arguments)
        waited.append(time.perf_counter() - begun)
        return made

    batch.of = staticmethod(of)
    try:
        yield
    finally:
        batch.of = staticmethod(original)


def waiting(run: Run, folder: Path, cases: int = 96) -> None:
    """The share of the demo's training that goes into reading crops and making batches, by epoch."""
    study = load_study(DEMO)
    site = _demo_site(study, folder / "demo", cases)
    stages = {
        "pretraining": partial(_pretrain, study),
        "finetuning": partial(_finetune, study),
    }
    for stage, train in stages.items():
        for epoch in range(2):
            waited: list[float] = []
            with timed_batches(waited):
                begun = time.perf_counter()
                loaded = Site.open(site).load("train")
                waited.append(time.perf_counter() - begun)
                train(loaded, epoch)
                whole = time.perf_counter() - begun
            first = epoch == 0 and stage == "pretraining"
            name = f"images-wait-{stage}-{'first' if first else 'later'}-epoch"
            if first or epoch == 1:
                told = f"{1e3 * sum(waited):.1f} of {1e3 * whole:.0f} ms, {cases} cases, 1 thread"
                run.tell(name, sum(waited) / whole, 0.02, told, at_most=True)


def _demo_site(study: StudyConfig, folder: Path, cases: int) -> Path:
    rng = np.random.default_rng(0)
    size = study.data.crop.size
    entries = []
    for i in range(cases):
        crop = rng.standard_normal((len(study.data.phases), *size)).astype(np.float16)
        lesion = np.zeros(size, np.uint8)
        lesion[tuple(slice(n // 3, 2 * n // 3) for n in size)] = 1
        key = f"{i:064x}"[::-1]
        store(folder / "cache", key, PreparedCase(crop, np.ones(len(study.data.phases), bool), lesion))
        entries.append(Entry(str(i), str(i), None, None, i % 2, 5.0, None, key))
    split_of: dict[str, Any] = {entry.case: "train" for entry in entries}
    write_site(
        folder,
        name="north",
        settings=study.data,
        entries=entries,
        split_of=split_of,
        cache=folder / "cache",
    )
    return folder


def _pretrain(study: StudyConfig, cases: Any, epoch: int) -> None:
    model = build_autoencoder(study)
    pretrain_round(model, cases, study, round_index=epoch, site="north", device=torch.device("cpu"))


def _finetune(study: StudyConfig, cases: Any, epoch: int) -> None:
    model = build_classifier(study)
    finetune_round(model, cases, study, round_index=epoch, site="north", device=torch.device("cpu"))


def memory(raws: list[RawCase], depth: int, folder: Path) -> None:
    """What preparing all cases adds to this process's memory, and MONAI with one case."""
    settled = settings(depth)
    ours = peak_mib(lambda: prepare_all(Reading(tuple(raws)), settled, folder / "peak", jobs=1))
    chain = monai_chain(depth)
    theirs = peak_mib(lambda: chain(raws[0]))
    volume = 2 * np.prod(SHAPE) / 2**20
    print(
        f"peak memory beyond the process at rest, 1 thread, 4x{depth}x96x96: ours {ours:.0f} MiB over "
        f"{len(raws)} cases, MONAI {theirs:.0f} MiB on one; a volume has {volume:.0f} MiB",
        flush=True,
    )


def main(words: list[str] | None = None) -> int:
    """Run everything; 0 whatever came of it, so that a slow machine fails no build."""
    parser = options(__doc__ or "")
    parser.set_defaults(threads=1)
    arguments = parser.parse_args(words)
    torch.set_num_threads(1)
    run = Run.begin(arguments)
    with tempfile.TemporaryDirectory() as place, warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="monai")
        folder = Path(place)
        raws = [write_case(folder, seed) for seed in range(1 if run.tiny else CASES)]
        if not run.tiny:
            memory(raws, 32, folder)
        for depth in (16,) if run.tiny else (16, 32):
            difference, spread = largest_difference(raws[0], depth)
            print(f"crops of depth {depth}: at most {difference:.3g} apart, spread {spread:.3g}", flush=True)
            if difference > 0.01 * spread:
                print("error: the two sides do not cut the same crop: nothing to compare", file=sys.stderr)
                return 1
            monai = cold(raws, depth, arguments.repeats, run, folder)
            warm(raws, depth, monai, run, folder)
        waiting(run, folder, 8 if run.tiny else 96)
    return 0


if __name__ == "__main__":
    sys.exit(main())
