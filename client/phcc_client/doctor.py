"""What a hospital's machine lacks, found before a study does: each check with what was found and the remedy."""

from __future__ import annotations

import importlib.metadata
import json
import os
import shutil
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
from rich.console import Console
from rich.table import Table

from phcc_client.checks import Check, failed, ok, warning
from phcc_client.home import Home
from phcc_client.network_checks import examine_network
from phcc_client.policy import Policy
from phcc_model.command_line import plain
from phcc_model.contract import keys
from phcc_model.contract.enrolment import Kit, read_file
from phcc_model.errors import PhccError
from phcc_model.study_file import read_text

GIB = 2**30
SHARED = "/dev/shm"  # noqa: S108 - it is what is asked about
LEAST_MEMORY, ENOUGH_MEMORY = 2 * GIB, 8 * GIB
LEAST_DISK, ENOUGH_DISK = 1 * GIB, 20 * GIB
ENOUGH_SHARED = 1 * GIB
FLOWER = ("1.41.", "flwr>=1.41,<1.42")
"""The versions of Flower whose insides are known here, and how pip is asked for one."""

_STYLES = {"ok": "green", "warning": "yellow", "failed": "bold red"}


def report(home: Home, console: Console | None = None) -> bool:
    """Run every check and print a table; whether none failed."""
    console = console or Console(highlight=False, emoji=False)
    checks = list(examine(home))
    table = Table("", "check", "found", box=None, pad_edge=False)
    for check in checks:
        found = plain(check.found)
        if check.remedy:
            found += f"\n-> {plain(check.remedy)}."
        table.add_row(f"[{_STYLES[check.verdict]}]{check.verdict}[/]", check.name, found)
    console.print(table)
    bad = sum(check.verdict == "failed" for check in checks)
    if bad:
        console.print(f"[bold red]{bad} of {len(checks)} checks failed[/]")
    else:
        console.print(f"[green]nothing failed in {len(checks)} checks[/]")
    return not bad


def examine(home: Home) -> Iterator[Check]:
    """Every check, in the order in which things have to work."""
    yield from examine_network(home)
    for check in (package, flower, gpu, memory, shared_memory, disk, permissions, key):
        yield _kept_whole(check, home)
    yield from data(home)


def package(home: Home) -> Check:
    """The version of this project, which must be the coordinator's."""
    own = keys.package_version()
    try:
        wanted = read_file(read_text(home.kit), Kit, str(home.kit)).package
    except PhccError as error:
        return failed("package", str(error.what), "Run phcc-client init KIT again")
    if own != wanted:
        return failed(
            "package",
            f"{keys.DISTRIBUTION} {own}, the kit asks for {wanted}",
            f"Run pip install {keys.DISTRIBUTION}=={wanted}",
        )
    return ok("package", f"{keys.DISTRIBUTION} {own}, as the kit asks for")


def flower(home: Home) -> Check:  # noqa: ARG001 - every check takes the home
    """The version of Flower."""
    begin, requirement = FLOWER
    try:
        version = importlib.metadata.version("flwr")
    except importlib.metadata.PackageNotFoundError:
        return failed("flower", "not installed", f"Run pip install '{requirement}'")
    if not version.startswith(begin):
        return failed("flower", version, f"Run pip install '{requirement}'")
    return ok("flower", version)


def gpu(home: Home) -> Check:
    """The devices that the settings name, and whether they are there."""
    import torch

    wanted = home.settings.device if isinstance(home.settings.device, tuple) else (home.settings.device,)
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if wanted == ("cpu",):
        if count:
            return warning(
                "device",
                f"cpu as configured, but there is a GPU: {_gpu(0)}",
                "Run phcc-client set device=cuda",
            )
        return ok("device", f"cpu as configured, {os.cpu_count()} cores, {_bf16('cpu')}, no GPU")
    if not count:
        return failed("device", f"{', '.join(wanted)} asked for, no usable GPU ({_driver()})", _no_gpu())
    numbers = [int(device.partition(":")[2] or 0) for device in wanted]
    missing = [number for number in numbers if number >= count]
    if missing:
        return failed(
            "device",
            f"there is no cuda:{missing[0]}, there are {count} GPUs",
            f"Run phcc-client set device=cuda:{count - 1}",
        )
    return ok("device", f"{'; '.join(_gpu(number) for number in numbers)}; {_driver()}")


def memory(home: Home) -> Check:  # noqa: ARG001 - every check takes the home
    """Main memory."""
    found = psutil.virtual_memory()
    text = f"{found.available / GIB:.1f} of {found.total / GIB:.1f} GiB free"
    return _enough("memory", text, found.available, LEAST_MEMORY, ENOUGH_MEMORY, "Close other programs")


def shared_memory(home: Home) -> Check:
    """``/dev/shm``, through which processes of several GPUs exchange what they computed."""
    several = isinstance(home.settings.device, tuple) and len(home.settings.device) > 1
    try:
        total = shutil.disk_usage(SHARED).total
    except OSError:
        total = 0
    text = f"{total / GIB:.2f} GiB in {SHARED}"
    if total >= ENOUGH_SHARED or not several:
        return ok("shared memory", text + ("" if total >= ENOUGH_SHARED else ", enough for one device"))
    return failed("shared memory", text, "Start the container with --shm-size=2g, or use one GPU")


def disk(home: Home) -> Check:
    """Room for crops, checkpoints and logs."""
    free = shutil.disk_usage(home.folder).free
    text = f"{free / GIB:.1f} GiB free in {home.folder}"
    return _enough("disk", text, free, LEAST_DISK, ENOUGH_DISK, "Make room, or move the folder")


def permissions(home: Home) -> Check:
    """Whether others than the owner can look into the hospital's folder."""
    mode = stat.S_IMODE(home.folder.stat().st_mode)
    if mode & 0o077:
        return warning(
            "permissions", f"others can look into {home.folder} ({mode:o})", f"Run chmod 700 {home.folder}"
        )
    return ok("permissions", f"only the owner can look into {home.folder}")


def key(home: Home) -> Check:
    """This hospital's key pair."""
    from phcc_client.joining import load_key
    from phcc_model.contract.enrolment import fingerprint, public_text

    private = load_key(home.private_key)
    public = public_text(private.public_key())
    if not home.public_key.exists() or home.public_key.read_text("utf-8").split()[:2] != public.split()[:2]:
        return failed(
            "key", "node.pub is not the private key's", "Run phcc-client init again with the same kit"
        )
    rotating = "; a next key waits to be activated" if home.next_private_key.exists() else ""
    return ok("key", f"{fingerprint(public)}{rotating}")


def data(home: Home) -> Iterator[Check]:
    """The images: whether they are there, what they look like, and how many cases each known study finds."""
    from phcc_client.imaging.readers import read_cases
    from phcc_client.preparing import data_path

    try:
        path = data_path(home)
    except PhccError as error:
        yield failed("data", f"{error.where}: {error.what}", error.remedy or "")
        return
    yield layout(path)
    try:
        known = [one for one in Policy(home.folder).studies() if one.study is not None]
    except PhccError as error:
        yield failed("studies", f"{error.where}: {error.what}", error.remedy or "")
        return
    for one in known:
        if one.study is None or one.standing in ("refused", "withdrawn"):
            continue
        name = f"data for {plain(one.name)}"
        try:
            reading = read_cases(one.study.data, path)
        except PhccError as error:
            yield failed(name, error.what, error.remedy or "")
            continue
        aside = reading.rejections
        text = f"{len(reading.cases)} cases, {len(aside)} set aside"
        if aside:
            yield warning(
                name, f"{text}; the first, {aside[0].case}, because {aside[0].reason}", aside[0].remedy
            )
        else:
            yield ok(name, text)


def layout(path: Path) -> Check:
    """What a folder of images looks like, by the file that each layout begins with."""
    if not os.access(path, os.R_OK | (os.X_OK if path.is_dir() else 0)):
        return failed("data", f"{path} cannot be read by this user", f"Run chmod u+rX on {path}, or chown it")
    if path.is_file():
        kind = "a MedMNIST file" if path.suffix == ".npz" else "a file of an unknown kind"
        return (ok if path.suffix == ".npz" else warning)("data", f"{path}: {kind}", "")
    if (path / "cases.csv").is_file():
        with (path / "cases.csv").open("rb") as stream:
            rows = sum(1 for line in stream if line.strip()) - 1
        return ok("data", f"{path}: NIfTI files with cases.csv, about {max(rows, 0)} rows")
    annotation = next(iter(sorted([*path.glob("*nnotation*.json"), *path.glob("*/*nnotation*.json")])), None)
    if annotation is not None:
        return ok("data", f"{path}: LLD-MMRI with {annotation.name}, {_entries(annotation)} patients")
    if next(path.rglob("*.dcm"), None) or next(path.rglob("DICOMDIR"), None):
        return warning(
            "data",
            f"{path}: DICOM files",
            "Export NIfTI files with a cases.csv, or ask whether DICOM is read",
        )
    return failed(
        "data",
        f"{path}: neither cases.csv nor an annotation is in it",
        "Put a cases.csv into it (see the README) or run phcc-client set data=FOLDER",
    )


def _entries(annotation: Path) -> str:
    try:
        plainly = json.loads(annotation.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return "an unknown number of"
    return str(len(plainly.get("Annotation_info", plainly))) if isinstance(plainly, dict) else "several"


def _enough(name: str, text: str, have: int, least: int, enough: int, remedy: str) -> Check:
    if have < least:
        return failed(name, f"{text}, {least // GIB} GiB is the least", remedy)
    if have < enough:
        return warning(name, f"{text}, {enough // GIB} GiB is comfortable", remedy)
    return ok(name, text)


def _gpu(number: int) -> str:
    import torch

    found = torch.cuda.get_device_properties(number)
    return f"cuda:{number} {found.name}, {found.total_memory / GIB:.0f} GiB, {_bf16(f'cuda:{number}')}"


def _bf16(device: str) -> str:
    import torch

    from phcc_client.devices import has_bf16

    return "bf16" if has_bf16(torch.device(device)) else "no bf16"


def _driver() -> str:
    import torch

    try:
        line = Path("/proc/driver/nvidia/version").read_text(encoding="utf-8").splitlines()[0]
        driver = next((word for word in line.split() if word[0].isdigit() and "." in word), "unknown")
    except (OSError, IndexError):
        driver = "none"
    return f"driver {driver}, torch {torch.__version__}"


def _no_gpu() -> str:
    if Path("/proc/driver/nvidia/version").exists():
        return "Install a torch that fits the driver, or give the container the GPU (--gpus all)"
    return "Install the NVIDIA driver, or run phcc-client set device=cpu"


def _kept_whole(check: Callable[[Home], Check], home: Home) -> Check:
    """A check that cannot be made has failed, and the others are still made."""
    name = check.__name__.replace("_", " ")
    try:
        return check(home)
    except PhccError as error:
        return failed(name, f"{error.where}: {error.what}" if error.where else error.what, error.remedy or "")
    except (OSError, RuntimeError) as error:
        return failed(name, f"cannot be found out ({error})", "Look into it by hand")
