"""Makes ready what was approved: whoever approves a study need not think of preparing it too.

The worker calls this while no order waits. A study that cannot be made ready (no data named yet, a label that is
not there) is tried again after a while; what is wrong stands in the worker's log.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from pathlib import Path

from phcc_client.home import Home
from phcc_client.overlaps import overlaps
from phcc_client.policy import KnownStudy, Policy, arms_of
from phcc_client.preparations import is_prepared, preparation_folder
from phcc_client.preparing import prepare_site
from phcc_client.site import SITE_FILE
from phcc_model.config import StudyConfig
from phcc_model.errors import PhccError

log = logging.getLogger("phcc_client")

LOOK_S = 3.0
AGAIN_S = 120.0


class Readiness:
    """What is ready at one hospital.

    Args:
        home: the hospital's folder.
    """

    def __init__(self, home: Home) -> None:
        self._home = home
        self._policy = Policy(home.folder)
        self._looked = 0.0
        self._not_before: dict[str, float] = {}
        self._ready: set[Path] = set()

    def see_to_it(self) -> None:
        """Make ready what was approved and is not; does nothing most of the time."""
        now = time.monotonic()
        if now - self._looked < LOOK_S:
            return
        self._looked = now
        try:
            missing = list(self._missing(now))
        except PhccError as error:
            log.warning("%s", error)
            return
        for known, study in missing:
            self._prepare(known, study)

    def _missing(self, now: float) -> Iterator[tuple[KnownStudy, StudyConfig]]:
        for known in self._policy.studies():
            settled = known.standing != "approved" or known.study is None
            if settled or now < self._not_before.get(known.digest, 0.0):
                continue
            assert known.study is not None
            for study in arms_of(known.study).values():
                if not self._is_ready(study, known.study):
                    yield known, study

    def _is_ready(self, study: StudyConfig, whole: StudyConfig) -> bool:
        """Read once, then only looked for: this happens every few seconds, and lists of cases are long."""
        site, name = self._home.site, self._home.settings.hospital
        folder = preparation_folder(site, study, name, whole)
        if folder in self._ready:
            return (folder / SITE_FILE).exists()
        try:
            ready = is_prepared(site, study, name, whole)
        except PhccError:  # preparing it says what is wrong
            return False
        if ready:
            self._ready.add(folder)
        return ready

    def _prepare(self, known: KnownStudy, study: StudyConfig) -> None:
        log.info("study %s: preparing its cases", study.name)
        try:
            # The settings may have been changed since this process began: the folder of the images, above all.
            site = prepare_site(Home.open(self._home.folder), study, whole=known.study)
            log.info("study %s: %d cases are ready", study.name, len(site.record.cases))
            for line in overlaps(self._home, known.digest):
                log.warning("study %s: %s", study.name, line)
        except PhccError as error:
            self._not_before[known.digest] = time.monotonic() + AGAIN_S
            log.warning("study %s: %s", study.name, error)
