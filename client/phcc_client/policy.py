"""What this hospital agreed to: which studies came in, and who decided what about each.

A decision covers one digest, and so every setting of the study and every arm that it names: a study that was
altered has another digest and is asked about again. Nothing runs that has not been approved here.
"""

from __future__ import annotations

import functools
import getpass
import os
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError

from phcc_model.arms import arm_study, written_out
from phcc_model.chain import Chain, read_held_records
from phcc_model.config import StudyConfig
from phcc_model.contract import keys
from phcc_model.contract.enrolment import StudyCard
from phcc_model.errors import PolicyError, StorageError
from phcc_model.storage import locked, storage_error, write_atomically
from phcc_model.study_file import dump_study, parse_study, read_text

Choice = Literal["approved", "refused", "withdrawn"]
Standing = Literal["new", "approved", "refused", "withdrawn"]

MOST_STUDIES = 1000
"""Studies that may come in before somebody clears up: who sends endless variants fills no disk."""
SHOWN = 12
"""Digits of a digest that are shown and, where they are unique, accepted."""

_WHAT = "the record of decisions"
_REMEDY = "Restore it from a copy, or move it and its .head aside: every study is then asked about again"
_DIGEST = re.compile(r"[0-9a-f]{64}")
_SAY = {
    "new": "has not been approved at this hospital",
    "refused": "was refused at this hospital",
    "withdrawn": "was withdrawn from at this hospital",
}


class Decision(BaseModel):
    """What somebody decided about one study.

    Attributes:
        digest: of the study.
        decision: approved, refused or withdrawn.
        who: the user of this machine.
        when: it was decided.
        package: version of this project that was installed then.
        note: what the person said about it.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    digest: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    decision: Choice
    who: str
    when: AwareDatetime
    package: str
    note: Annotated[str, Field(max_length=2000)] = ""


@dataclass(frozen=True)
class KnownStudy:
    """A study that came in, by an order or with the kit.

    Attributes:
        digest: of the study.
        name: its name.
        standing: ``new`` until somebody decides.
        study: the study itself; None while only its card in the kit is known.
        purpose: from the card; empty where there was none.
    """

    digest: str
    name: str
    standing: Standing
    study: StudyConfig | None
    purpose: str


class Policy:
    """The decisions of one hospital; read anew each time, for they are made in another process.

    Args:
        home: the hospital's folder.
    """

    def __init__(self, home: Path) -> None:
        self.decisions_file = home / "policy" / "decisions.jsonl"
        self.studies_folder = home / "studies"

    def see(self, study_text: str, digest: str | None = None) -> StudyConfig:
        """Take note of a study; it decides nothing.

        Args:
            study_text: the study, as text.
            digest: which it is said to be; None where nobody said so.

        Raises:
            ConfigError: the text is no study.
            PolicyError: it is not the study that it is said to be, or too many came in.
            StorageError: it cannot be kept.
        """
        study, own = _parsed(study_text)
        if digest is not None and digest != own:
            raise PolicyError(
                "the study is not the one that the order names",
                where=f"study {study.name}",
                remedy="Ask the coordinator for the study itself, and compare the digests",
            )
        path = self._study_file(own)
        if not path.exists():
            if sum(1 for _ in self.studies_folder.glob("*.yaml")) >= MOST_STUDIES:
                raise PolicyError(
                    f"{MOST_STUDIES} studies came in already",
                    where=str(self.studies_folder),
                    remedy="Remove those that nobody needs",
                )
            write_atomically(path, dump_study(study.model_copy(update={"data": _without_path(study)})))
        return study

    def see_cards(self, cards: tuple[StudyCard, ...]) -> None:
        """Take note of the studies that a kit names.

        Raises:
            ConfigError: a study that a card holds is none.
            PolicyError: it is not the one that the card names.
            StorageError: they cannot be kept.
        """
        for card in cards:
            if card.text:
                self.see(card.text, card.digest)
            write_atomically(self.studies_folder / f"{_checked(card.digest)}.card", card.model_dump_json())

    def decision(self, digest: str) -> Standing:
        """How this hospital stands to a study.

        Raises:
            StorageError: the record of decisions cannot be read or was altered: nothing is approved then.
        """
        standing: Standing = "new"
        for decision in self.decisions():
            if decision.digest == digest:
                standing = decision.decision
        return standing

    def decisions(self) -> tuple[Decision, ...]:
        """Every decision, in the order in which they were made.

        Raises:
            StorageError: as `decision`.
        """
        if not self.decisions_file.parent.exists():
            return ()
        with locked(self.decisions_file):
            records = read_held_records(self.decisions_file, _WHAT, _REMEDY)
        try:
            return tuple(Decision.model_validate(record) for record in records)
        except ValidationError as error:
            raise StorageError(
                f"{_WHAT} holds a line that is none", where=str(self.decisions_file), remedy=_REMEDY
            ) from error

    def check(self, study_text: str, digest: str, arm: str | None = None) -> StudyConfig:
        """The study, if exactly this one is approved here.

        Args:
            study_text: the study, as text; its digest is worked out anew.
            digest: which it is said to be.
            arm: which of its arms is ordered; None where the order is for none. An approval covers the arms
                that the study names, and no other.

        Raises:
            PolicyError: it is not the study that it is said to be, is not approved, or names no such arm.
            PhccError: as `see` and `decision`.
        """
        study = self.see(study_text, digest)
        standing = self.decision(digest)
        if standing != "approved":
            short = digest[:SHOWN]
            raise PolicyError(
                _SAY[standing],
                where=f"study {study.name} ({short})",
                remedy=f"Read phcc-client show {short}, then phcc-client approve {short} or refuse {short}",
            )
        if arm is not None and not covers(study, arm):
            raise PolicyError(
                "the order is for an arm that the approved study does not name",
                where=f"study {study.name}, arm {' '.join(arm.split())[:80]}",
                remedy="Ask the coordinator for a study that names it, which is then asked about",
            )
        return study

    def decide(self, digest: str, choice: Choice, note: str = "") -> Decision:
        """Write down a decision; the last one about a study holds.

        Raises:
            PolicyError: withdrawn from a study that is not approved.
            StorageError: it cannot be written.
        """
        if choice == "withdrawn" and (standing := self.decision(digest)) != "approved":
            raise PolicyError(
                f"cannot be withdrawn from: it is {standing}",
                where=f"study {digest[:SHOWN]}",
                remedy="Only what is approved can be; phcc-client refuse refuses it",
            )
        decision = Decision(
            digest=_checked(digest),
            decision=choice,
            who=_user(),
            when=datetime.now(UTC),
            package=keys.package_version(),
            note=note,
        )
        with locked(self.decisions_file):
            Chain(self.decisions_file, _WHAT, _REMEDY).append(decision.model_dump(mode="json"))
        return decision

    def studies(self) -> tuple[KnownStudy, ...]:
        """Every study that came in, by name.

        Raises:
            PhccError: a file of it is damaged, or the record of decisions does not hold.
        """
        standing: dict[str, Standing] = {d.digest: d.decision for d in self.decisions()}
        cards = {path.stem: self._card(path) for path in self.studies_folder.glob("*.card")}
        read = {path.stem: self._study(path) for path in self.studies_folder.glob("*.yaml")}
        known = [
            KnownStudy(
                digest,
                read[digest].name if digest in read else cards[digest].name,
                standing.get(digest, "new"),
                read.get(digest),
                cards[digest].purpose if digest in cards else "",
            )
            for digest in cards.keys() | read.keys()
        ]
        return tuple(sorted(known, key=lambda study: (study.name, study.digest)))

    def find(self, word: str) -> tuple[KnownStudy, ...]:
        """The studies of a name (a study and its variants share one), or the one whose digest begins so.

        Raises:
            PolicyError: there is none, or several digests begin so.
            PhccError: as `studies`.
        """
        studies = self.studies()
        named = tuple(study for study in studies if study.name == word)
        found = named or tuple(study for study in studies if study.digest.startswith(word) and word)
        if not found:
            raise PolicyError(
                "no study of this name or digest came in",
                where=" ".join(word.split())[:80],
                remedy="phcc-client studies lists them",
            )
        if not named and len(found) > 1:
            raise PolicyError(
                f"{len(found)} studies' digests begin so", where=word, remedy="Give more of its digits"
            )
        return found

    def _study_file(self, digest: str) -> Path:
        return self.studies_folder / f"{_checked(digest)}.yaml"

    def _study(self, path: Path) -> StudyConfig:
        study, digest = _parsed(read_text(path))
        if digest != path.stem:
            raise StorageError(
                "was changed after it came in (its digest does not fit)",
                where=str(path),
                remedy="Remove the file; the study comes again with the next order",
            )
        return study

    def _card(self, path: Path) -> StudyCard:
        try:
            card = StudyCard.model_validate_json(path.read_bytes())
        except OSError as error:
            raise storage_error(path, error) from error
        except ValidationError:
            card = None
        if card is None or card.digest != path.stem:
            raise StorageError("is no study's card", where=str(path), remedy="Remove the file") from None
        return card


def arms_of(study: StudyConfig) -> dict[str, StudyConfig]:
    """What a hospital runs in each arm that a study names, ``phase:*`` written out.

    ``local:*``, one arm per hospital, stays as it is: it trains as ``full`` does, and nothing else is prepared.

    Raises:
        ConfigError: the study names an arm that there is not.
    """
    return {name: arm_study(study, name) for name in written_out(study.evaluation.arms, study, ("*",))}


def covers(study: StudyConfig, arm: str) -> bool:
    """Whether a study names an arm, by itself or as one of ``phase:*`` or ``local:*``."""
    first, plus, rest = arm.partition("+")
    what, _, which = first.partition(":")
    return arm in study.evaluation.arms or (bool(which) and f"{what}:*{plus}{rest}" in study.evaluation.arms)


@functools.lru_cache(maxsize=64)
def _parsed(study_text: str) -> tuple[StudyConfig, str]:
    """The text comes with every order of a study, and reading YAML takes a while."""
    study = parse_study(study_text, where="the order's study")
    return study, study.digest


def _without_path(study: StudyConfig) -> object:
    """The coordinator's path of the data says nothing here, and is no part of the digest."""
    return study.data.model_copy(update={"path": None})


def _checked(digest: str) -> str:
    """A digest that may become a file's name.

    Raises:
        PolicyError: it is none.
    """
    if not _DIGEST.fullmatch(digest):
        raise PolicyError("is no digest of a study", where=repr(digest[:80]))
    return digest


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a user without an entry, as in a container
        return f"user {os.getuid()}"
