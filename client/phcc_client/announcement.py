"""How a site announces itself for a study: counted from its own file, without opening an image."""

from __future__ import annotations

from collections.abc import Collection

from phcc_client.imaging.facts import Facts, ranges_of
from phcc_client.site import SPLITS, Site, SiteCase
from phcc_model.cases import UNKNOWN_LABEL
from phcc_model.contract import keys
from phcc_model.contract.messages import SiteCard


def card_of(site: Site, name: str, study_digest: str, minimum: int = 1) -> SiteCard:
    """The card of a site.

    Args:
        site: its cases, prepared as the study asks.
        name: of the site.
        study_digest: of the study.
        minimum: patients that must stand behind a range of what images look like; counts are true, see
            `guard.suppressed`.
    """
    by_split = {split: [case for case in site.record.cases if case.split == split] for split in SPLITS}
    return SiteCard(
        package=keys.package_version(),
        site=name,
        study_digest=study_digest,
        patients={split: len({case.patient for case in cases}) for split, cases in by_split.items()},
        cases={split: len(cases) for split, cases in by_split.items()},
        positives={split: len(_with_label(cases, {1})) for split, cases in by_split.items()},
        negatives={split: len(_negatives(cases)) for split, cases in by_split.items()},
        aside=dict(site.record.funnel.aside),
        seen=ranges_of(_by_patient(by_split["train"]), minimum),
    )


def _by_patient(cases: Collection[SiteCase]) -> dict[str, list[Facts]]:
    found: dict[str, list[Facts]] = {}
    for case in cases:
        found.setdefault(case.patient, []).append(case.facts)
    return found


def _with_label(cases: Collection[SiteCase], labels: Collection[int]) -> set[str]:
    return {case.patient for case in cases if case.label in labels}


def _negatives(cases: Collection[SiteCase]) -> set[str]:
    """Patients with a labelled lesion, none of which is positive."""
    labelled = {case.patient for case in cases if case.label != UNKNOWN_LABEL}
    return labelled - _with_label(cases, {1})
