"""What the commands of ``phcc-server`` about the service and about runs do."""

from __future__ import annotations

import contextlib
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

from rich.console import Console
from rich.table import Table

from phcc_model.chain import last_seal
from phcc_model.command_line import EXIT_ERROR
from phcc_model.errors import ConfigError, PhccError, RoundError
from phcc_model.shipped import find_study
from phcc_model.study_file import load_study
from phcc_model.supervised import read_status
from phcc_model.supervision import start_detached, stop_detached
from phcc_server import front_door, service
from phcc_server.certificates import expiry
from phcc_server.health import is_serving
from phcc_server.hospitals import Register
from phcc_server.instance import Instance
from phcc_server.ledger import read_rounds
from phcc_server.options import console
from phcc_server.real_arms import arms_at_sites
from phcc_server.run_folder import RunFolder
from phcc_server.screen import Screen
from phcc_server.superlink import Control
from phcc_server.watchman import last_refusals

EXIT_STOPPED = 3
"""`watch` of a run that somebody stopped."""
POLL_S = 0.5
SHOWN_REFUSALS = 5


def start(folder: Path, *, foreground: bool) -> None:
    """Start the service.

    Raises:
        PhccError: it runs already, or something that it needs is missing.
    """
    instance = Instance.open(folder)
    programs = service.programs(instance)  # what is missing is told here, not in a log
    if foreground:
        service.serve(instance, programs)
        return
    start_detached(instance.folder, [sys.executable, "-m", "phcc_server.service", str(instance.folder)])
    end = time.monotonic() + 60
    while not _is_well(instance):
        if time.monotonic() > end:
            raise RoundError(
                "the server was started, but is not well after a minute", remedy="Look at phcc-server status"
            )
        time.sleep(POLL_S)
    console.print(f"The server runs. Hospitals connect to {instance.settings.address}.")


def stop(folder: Path) -> None:
    """Stop the service; runs go on when it is started again.

    Raises:
        PhccError: it does not end.
    """
    instance = Instance.open(folder)
    console.print("Stopped." if stop_detached(instance.folder) else "Nothing was running.")


def status(folder: Path) -> None:
    """Show how everything is; exit 1 where something is not well.

    Raises:
        PhccError: there is no instance.
    """
    instance = Instance.open(folder)
    running = read_status(instance.folder)
    table = Table("program", "state", "since", "restarts", "last exit")
    well = running is not None
    for program in running.programs if running else ():
        state = "down" if program.pid is None else _health(instance, program.name)
        well = well and state in ("well", "runs")
        last = "" if program.last_exit is None else str(program.last_exit)
        table.add_row(program.name, state, _ago(program.since), str(program.restarts), last)
    console.print(table if running else "The server does not run. Start it with phcc-server start.")
    for each in expiry(instance.tls):
        console.print(each.warning or f"the {each.name} ends in {each.days_left} days")
    _show_hospitals(instance)
    for run in RunFolder.all(instance.runs):
        console.print(f"run {run.name}: {run.state}{_last_round(run)}")
    for line in last_refusals(instance, SHOWN_REFUSALS):
        console.print(line)
    if not well:
        sys.exit(EXIT_ERROR)


def submit(folder: Path, study_name: str, overrides: list[str], sites: list[str]) -> None:
    """Put a study before the hospitals.

    Raises:
        PhccError: the study is not valid, a site is not admitted, or the quorum cannot be met.
    """
    instance = Instance.open(folder)
    study = load_study(find_study(study_name), overrides)
    admitted = {h.name for h in Register(instance.records).hospitals() if h.state == "admitted"}
    chosen = tuple(sorted(sites or admitted))
    if unknown := [site for site in chosen if site not in admitted]:
        raise ConfigError(
            "is not admitted", where=unknown[0], remedy="Invite and admit it first: phcc-server hospitals"
        )
    if not chosen:
        raise ConfigError(
            "no hospital is admitted yet",
            where=str(instance.folder),
            remedy="Invite and admit the hospitals first: phcc-server invite HOSPITAL",
        )
    _, notes = arms_at_sites(study, chosen)
    run = RunFolder.create(instance.runs, study, chosen)
    for note in notes:
        console.print(note)
    console.print(
        f"run {run.name}: study {study.name}, digest {study.digest[:12]}, sites {', '.join(chosen)}"
    )
    console.print(
        "Each hospital has to approve this digest (phcc-client approve) before it takes part.\n"
        f"Watch it with phcc-server watch {run.name}"
    )
    if read_status(instance.folder) is None:
        console.print("The server does not run: the run begins when it is started (phcc-server start).")


def show_runs(folder: Path) -> None:
    """A table of all runs.

    Raises:
        PhccError: there is no instance.
    """
    instance = Instance.open(folder)
    table = Table("run", "state", "submitted", "sites", "attempts", "last round")
    for run in RunFolder.all(instance.runs):
        request = run.request
        when = request.submitted.strftime("%Y-%m-%d %H:%M")
        sites, attempts = ", ".join(request.sites), str(len(run.attempts))
        table.add_row(run.name, run.state, when, sites, attempts, _last_round(run).lstrip(", "))
    console.print(table)


def watch(folder: Path, name: str) -> int:
    """Show a run as it goes, until it ends; the exit code tells how.

    Returns:
        0 finished; 1 failed; 3 stopped.

    Raises:
        PhccError: there is no such run.
    """
    instance = Instance.open(folder)
    run = RunFolder.open(instance.runs, name)
    journal = run.journal
    with Screen(Console()) as screen:
        while True:
            for event in journal.new_events():
                screen.event(event)
            verdict = run.verdict
            if verdict is not None:
                screen.note(f"{verdict.state}: {verdict.text}")
                return 0 if verdict.state == "finished" else EXIT_ERROR
            if not run.request.go_on:
                screen.note(f"stopped. phcc-server resume {name} lets it go on")
                return EXIT_STOPPED
            time.sleep(POLL_S)


def let_go_on(folder: Path, name: str, *, go_on: bool) -> None:
    """Stop a run, or let it go on from its last checkpoint.

    Raises:
        PhccError: there is no such run, or it is finished.
    """
    instance = Instance.open(folder)
    run = RunFolder.open(instance.runs, name)
    run.ask_to_go_on(go_on)
    console.print(f"{name}: {'goes on from its last round' if go_on else 'is stopped; what it has is kept'}")


def show_report(folder: Path, name: str) -> None:
    """Work the report of a finished run out again, from its record, and say where it is.

    Raises:
        PhccError: the run is not finished, its record does not hold, or the folder holds no run.
    """
    from phcc_server.report.again import report_again

    run = Path(name)
    if "/" not in name and not run.is_dir():
        found = RunFolder.open(Instance.open(folder).runs, name)
        if found.state != "finished":
            raise RoundError(
                f"there is no report yet, the run is {found.state}",
                where=name,
                remedy=f"phcc-server watch {name}",
            )
        run = found.folder
    console.print(f"report  {report_again(run)}\nfigures {run / 'summary.json'}")


def verify_run(folder: Path, name: str) -> None:
    """Prove a run's record whole: chain, order of the digests, checkpoints, report; exit 1 where it is not.

    Raises:
        PhccError: there is no such run.
    """
    from phcc_server.verification import faults_of

    instance = Instance.open(folder)
    run = RunFolder.open(instance.runs, name)
    faults = faults_of(run)
    for fault in faults:
        console.print(f"does not hold: {fault}")
    if faults:
        sys.exit(EXIT_ERROR)
    console.print(f"{name}: {len(read_rounds(run.ledger))} rounds, whole. Last seal {last_seal(run.ledger)}")


def _is_well(instance: Instance) -> bool:
    running = read_status(instance.folder)
    if running is None or any(program.pid is None for program in running.programs):
        return False
    ports = (instance.settings.superlink_health_port, instance.settings.superexec_health_port)
    return all(is_serving(port) for port in ports) and front_door.answers(instance)


def _health(instance: Instance, name: str) -> str:
    port = {
        "superlink": instance.settings.superlink_health_port,
        "superexec": instance.settings.superexec_health_port,
    }.get(name)
    if name == "front-door":
        return (
            "well" if front_door.answers(instance) else "does not answer, or somebody else does on its port"
        )
    if port is None:
        return "runs"
    return "well" if is_serving(port) else "does not answer"


def _show_hospitals(instance: Instance) -> None:
    online: dict[str, str] = {}
    with contextlib.suppress(PhccError), Control(instance) as control:
        online = {node.name: node.status for node in control.nodes()}
    for hospital in Register(instance.records).hospitals():
        console.print(
            f"hospital {hospital.name}: {hospital.state}, {online.get(hospital.name, 'not connected')}"
        )


def _last_round(run: RunFolder) -> str:
    with contextlib.suppress(PhccError):
        if run.ledger.exists() and (rounds := read_rounds(run.ledger)):
            last = rounds[-1]
            return f", {last.arm} {last.stage} round {last.round + 1} {last.status.value}"
    return ""


def _ago(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).astimezone().strftime("%Y-%m-%d %H:%M:%S")
