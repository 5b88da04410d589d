"""Patients that one study of this hospital tests and another one trains on.

Studies with other seeds, splits or labels stand side by side in one hospital, each sound by itself. But weights
that were trained in the one have seen patients that the other calls unseen: a study that begins from them would
look better than it is. Nothing is wrong as long as people know, so this is said and not refused.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from phcc_client.home import Home
from phcc_client.policy import SHOWN, KnownStudy, Policy, arms_of
from phcc_client.preparations import find_prepared, would_stand
from phcc_client.site import SiteCase, Split
from phcc_model.errors import PhccError

Places = Mapping[str, set[Split]]


def overlaps(home: Home, digest: str) -> Iterator[str]:
    """What is to be known about a study beside the others of this hospital, a line for each of them.

    Only what was approved here once can have weights. A study that has not been prepared yet is dealt as it will
    be, from the other's patients and labels.

    Args:
        home: the hospital's folder.
        digest: of the study.

    Raises:
        PhccError: the studies that came in cannot be read.
    """
    policy = Policy(home.folder)
    studies = {known.digest: known for known in policy.studies()}
    this = studies.pop(digest, None)
    if this is None or this.study is None:
        return
    own = _places(_cases(home, this))
    approved = {decision.digest for decision in policy.decisions() if decision.decision == "approved"}
    forecast = "" if own else " (as far as can be told before it is prepared)"
    for other in studies.values():
        theirs = _cases(home, other) if other.digest in approved else ()
        if deeds := _deeds(own or _forecast(home, this, theirs), _places(theirs)):
            yield (
                f"{other.name} {other.digest[:SHOWN]} {deeds}{forecast}: weights of the one must not be used in "
                "the other"
            )


def _deeds(own: Places, theirs: Places) -> str:
    """What another study does with this study's patients; nothing where all is well."""
    trained, tested = _trained_on(theirs) & _tested(own), _tested(theirs) & _trained_on(own)
    deeds = [
        *([f"trains on {_people(trained)} that this study tests"] if trained else []),
        *([f"tests {_people(tested)} that this study trains on"] if tested else []),
    ]
    return " and ".join(deeds)


def _cases(home: Home, known: KnownStudy) -> tuple[SiteCase, ...]:
    """The cases of all of a study's arms; none where it has not been prepared or its list cannot be read."""
    found: list[SiteCase] = []
    for arm in arms_of(known.study).values() if known.study is not None else ():
        try:
            site = find_prepared(home.site, arm, home.settings.hospital, known.study)
        except PhccError:  # whoever trains on that list is told what is wrong with it
            continue
        found += site.record.cases if site is not None else ()
    return tuple(found)


def _places(cases: tuple[SiteCase, ...]) -> Places:
    places: dict[str, set[Split]] = {}
    for case in cases:
        places.setdefault(case.patient, set()).add(case.split)
    return places


def _forecast(home: Home, known: KnownStudy, cases: tuple[SiteCase, ...]) -> Places:
    assert known.study is not None
    return {p: {split} for p, split in would_stand(cases, known.study, home.settings.hospital).items()}


def _tested(places: Places) -> set[str]:
    return {patient for patient, splits in places.items() if "test" in splits}


def _trained_on(places: Places) -> set[str]:
    """Patients whose images changed the weights, or chose among them."""
    return {patient for patient, splits in places.items() if splits & {"train", "validation"}}


def _people(patients: set[str]) -> str:
    return f"{len(patients)} patient" + ("s" if len(patients) != 1 else "")
