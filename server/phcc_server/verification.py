"""Is a run's record whole? What `phcc-server verify` holds against each other."""

from __future__ import annotations

import json
from collections.abc import Iterator

from phcc_model.arms import ArmPlan
from phcc_model.chain import last_seal
from phcc_model.checkpoint import load_checkpoint, state_digest
from phcc_model.contract import keys
from phcc_model.errors import PhccError
from phcc_server.ledger import RoundRecord, read_rounds, verify
from phcc_server.real_arms import arms_at_sites
from phcc_server.rounds import RoundStatus
from phcc_server.run_folder import RunFolder
from phcc_server.store import RunStore


def faults_of(run: RunFolder) -> tuple[str, ...]:
    """What does not hold, one line each; none if the record is whole.

    The chain of the ledger; within each arm, that every round begins with the weights that the one before it
    gave; the digest of every checkpoint that is kept, against the ledger and against its own bytes; what the rule
    of aggregation keeps, against its own bytes; the seal that the report names.

    Raises:
        PhccError: a file cannot be read.
    """
    faults = list(verify(run.ledger))
    if faults:
        return tuple(faults)
    records = read_rounds(run.ledger)
    plans, _ = arms_at_sites(run.study, run.request.sites)
    for plan in plans:
        own = [record for record in records if record.arm == plan.name]
        faults += _breaks(own)
        faults += _checkpoints(run, plan, own)
    faults += _report(run, records)
    return tuple(faults)


def _breaks(records: list[RoundRecord]) -> Iterator[str]:
    """A round that a crash cut off may be recorded twice: both begin with the same weights."""
    after: dict[tuple[str, int], str] = {}
    for record in records:
        before = after.get((record.stage, record.round - 1))
        if before is not None and record.digest_before != before:
            yield (
                f"{record.arm} {record.stage} round {record.round + 1} does not begin with the weights that "
                f"round {record.round} gave"
            )
        if record.status is not RoundStatus.FAILED:
            known = after.setdefault((record.stage, record.round), record.digest_after)
            if known != record.digest_after:
                yield f"{record.arm} {record.stage} round {record.round + 1} was done twice, with two results"


def _checkpoints(run: RunFolder, plan: ArmPlan, records: list[RoundRecord]) -> Iterator[str]:
    after: dict[tuple[str, int], str] = {
        (r.stage, r.round): r.digest_after for r in records if r.status is not RoundStatus.FAILED
    }
    store = RunStore(run.checkpoints, plan.study.digest)
    for which in ("latest", "best"):
        try:
            stored = store.latest(plan.name) if which == "latest" else store.best(plan.name)
        except PhccError as error:
            yield str(error)
            continue
        if stored is None:
            continue
        place = (stored.info.stage, stored.info.round_index)
        if after.get(place) != state_digest(load_checkpoint(stored.path)[0]):
            said = f"{plan.name} {place[0]} round {place[1] + 1}"
            yield f"{stored.path.name} does not hold what the ledger says of {said}"
    try:
        store.rule(plan.name)
    except PhccError as error:
        yield str(error)


def _report(run: RunFolder, records: tuple[RoundRecord, ...]) -> Iterator[str]:
    path = run.folder / "summary.json"
    if not path.exists():
        return
    digests = json.loads(path.read_text(encoding="utf-8")).get("digests", {})
    if digests.get("ledger") != last_seal(run.ledger):
        yield "the report was made from another ledger"
    finals = {r.digest_after for r in records if r.stage == keys.FINETUNE}
    for name, digest in digests.items():
        if name.startswith("weights.") and digest not in finals:
            yield f"the report's {name} are not the outcome of any round"
