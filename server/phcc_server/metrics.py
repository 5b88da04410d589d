"""The coordinator's metrics for Prometheus: programs, certificates, hospitals, runs; nothing about patients."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import get_args

from phcc_model.chain import read_records
from phcc_model.contract import keys
from phcc_model.monitoring import MACHINE, Measures, add_machine, serving
from phcc_server.certificates import CA_CERTIFICATE, expiry
from phcc_server.health import is_serving
from phcc_server.hospitals import Register, State
from phcc_server.instance import Instance
from phcc_server.ledger import RoundRecord, SiteRecord
from phcc_server.rounds import RoundStatus
from phcc_server.run_folder import RunFolder
from phcc_server.superlink import Control

PREFIX = "phcc_server"
RUN_STATES = ("waiting", "running", "stopped", "failed", "finished", "damaged")
SITE_STATUSES: tuple[str, ...] = get_args(SiteRecord.model_fields["status"].annotation)
HOSPITAL_STATES: tuple[str, ...] = get_args(State)

METRICS = MACHINE | {
    "info": "The version that is installed; always 1",
    "certificate_days_left": "Whole days until the certificate ends",
    "hospitals": "Hospitals by state",
    "nodes_registered": "Nodes that the SuperLink lets in",
    "nodes_online": "Nodes that the SuperLink hears of",
    "node_online": "Whether the SuperLink hears of a hospital's node",
    "database_bytes": "Size of a database, with its write-ahead log",
    "runs": "Runs by state",
    "run_attempts": "Times that Flower was asked to run it",
    "run_ledger_lines": "Rounds that the ledger records, those that were repeated included",
    "run_rounds_planned": "Rounds of all arms; fewer are run where an arm stops early",
    "run_rounds_done": "Different rounds that were tried, of all arms",
    "run_stage": "Arm and stage of the last round; always 1",
    "run_round": "Number of the last round in its stage, from 1",
    "run_round_seconds": "How long the last round took",
    "run_round_status": "1 for how the last round went, 0 for the others",
    "run_round_finished_timestamp_seconds": "When the last round ended",
    "run_sites": "Sites of the last round by what came of them",
    "run_site_accepted": "Whether the site's reply counted in the last round",
    "run_validation_loss": "Loss on all sites' validation patients after the last round",
    "run_validation_auc": "AUC on all sites' validation patients after the last round",
}
"""Every metric, without its prefix, and what it means. Runs that are finished have none of their own."""


def serve_metrics(instance: Instance) -> AbstractContextManager[Callable[[], None]]:
    """Tell an instance's metrics on its loopback port; gives the supervisor's tick, see `serving`."""
    return serving(instance.settings.metrics_port, lambda: look(instance))


def look(instance: Instance) -> Measures:
    """Everything, as it stands now."""
    measures = Measures(PREFIX, METRICS)
    measures.add("info", 1, version=keys.package_version(), server=instance.settings.name)
    add_machine(measures, instance.folder)
    with measures.part("certificates"):
        for each in expiry(instance.tls):
            which = "authority" if each.path.name == CA_CERTIFICATE else "server"
            measures.add("certificate_days_left", each.days_left, certificate=which)
    with measures.part("hospitals"):
        _add_hospitals(measures, instance)
    with measures.part("nodes"):
        _add_nodes(measures, instance)
    with measures.part("databases"):
        for name, path in (("flower", instance.flower_database), ("records", instance.records)):
            measures.add("database_bytes", _size(path), database=name)
    with measures.part("runs"):
        _add_runs(measures, instance)
    return measures


def _add_hospitals(measures: Measures, instance: Instance) -> None:
    found: Counter[str] = Counter()
    if instance.records.exists():  # it is made by the first invitation, not by being looked at
        found.update(hospital.state for hospital in Register(instance.records, who=PREFIX).hospitals())
    for state in HOSPITAL_STATES:
        measures.add("hospitals", found[state], state=state)


def _add_nodes(measures: Measures, instance: Instance) -> None:
    """Asks the SuperLink, if it is well: one that hangs would hold the scrape."""
    if not is_serving(instance.settings.superlink_health_port):
        return
    with Control(instance) as control:
        nodes = control.nodes()
    measures.add("nodes_registered", len(nodes))
    measures.add("nodes_online", sum(node.status == "online" for node in nodes))
    for site in sorted({node.name for node in nodes}):  # two nodes, while a hospital changes its key
        online = any(node.status == "online" for node in nodes if node.name == site)
        measures.add("node_online", online, site=site)


def _add_runs(measures: Measures, instance: Instance) -> None:
    states: Counter[str] = Counter()
    for run in RunFolder.all(instance.runs):
        state = "damaged"
        with measures.part(f"run {run.name}"):
            state = run.state
            if state != "finished":
                _add_run(measures, run)
        states[state] += 1
    for state in RUN_STATES:
        measures.add("runs", states[state], state=state)


def _add_run(measures: Measures, run: RunFolder) -> None:
    records = read_records(run.ledger)
    measures.add("run_attempts", len(run.attempts), run=run.name)
    measures.add("run_ledger_lines", len(records), run=run.name)
    if (planned := _planned(run)) is not None:
        measures.add("run_rounds_planned", planned, run=run.name)
    done = {(record["arm"], record["stage"], record["round"]) for record in records}
    measures.add("run_rounds_done", len(done), run=run.name)
    if records:
        _add_round(measures, run.name, RoundRecord.model_validate(records[-1]))


def _add_round(measures: Measures, run: str, record: RoundRecord) -> None:
    measures.add("run_stage", 1, run=run, arm=record.arm, stage=record.stage)
    measures.add("run_round", record.round + 1, run=run)
    measures.add("run_round_seconds", record.seconds, run=run)
    measures.add("run_round_finished_timestamp_seconds", record.finished.timestamp(), run=run)
    for status in RoundStatus:
        measures.add("run_round_status", record.status is status, run=run, status=status.value)
    for what in SITE_STATUSES:
        count = sum(site.status == what for site in record.sites.values())
        measures.add("run_sites", count, run=run, status=what)
    for name, site in record.sites.items():
        measures.add("run_site_accepted", site.status == "accepted", run=run, site=name)
    if record.validation is not None and record.validation.loss is not None:
        measures.add("run_validation_loss", record.validation.loss, run=run)
    if record.validation is not None and record.validation.auc is not None:
        measures.add("run_validation_auc", record.validation.auc, run=run)


def _planned(run: RunFolder) -> int | None:
    """Rounds by the first plan in the journal: an attempt begins with it, and every attempt has the same."""
    plan = next((event for event in run.journal.new_events() if event.kind == "plan"), None)
    if plan is None:
        return None
    return sum(int(arm[stage]) for arm in plan.fields["arms"] for stage in keys.STAGES)


def _size(database: Path) -> int:
    parts = (database, database.with_name(database.name + "-wal"))
    return sum(path.stat().st_size for path in parts if path.exists())
