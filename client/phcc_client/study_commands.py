"""What the commands of ``phcc-client`` about studies do: looking at one, deciding on it, preparing it."""

from __future__ import annotations

import functools
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import typer
from rich.console import Console
from rich.progress import Progress, TaskID
from rich.table import Table

from phcc_client.home import Home
from phcc_client.policy import SHOWN, Choice, KnownStudy, Policy, arms_of
from phcc_client.wording import asked_for, compared, differences, leaves, privacy
from phcc_model.command_line import plain
from phcc_model.config import StudyConfig
from phcc_model.contract import keys
from phcc_model.errors import PolicyError
from phcc_model.study_file import read_text

if TYPE_CHECKING:
    from phcc_client.site import Site

console = Console(soft_wrap=True, highlight=False, emoji=False)

SHOWN_CASES = 20
"""Cases that were set aside and are named on the screen."""

_STYLES = {"new": "bold yellow", "approved": "green", "refused": "red", "withdrawn": "red"}


def list_studies(home: Home) -> None:
    """Every study that came in and how this hospital stands to it."""
    studies = Policy(home.folder).studies()
    if not studies:
        console.print(
            "No study came in yet. Studies come with the kit, or with the coordinator's first order."
        )
        return
    table = Table("study", "digest", "stands", "decided", "purpose", box=None, pad_edge=False)
    last = {decision.digest: decision for decision in Policy(home.folder).decisions()}
    for study in studies:
        decision = last.get(study.digest)
        decided = f"{decision.when:%Y-%m-%d %H:%M} by {plain(decision.who)}" if decision else ""
        standing = f"[{_STYLES[study.standing]}]{study.standing}[/]"
        table.add_row(plain(study.name), study.digest[:SHOWN], standing, decided, plain(study.purpose))
    console.print(table)


def show(home: Home, word: str) -> None:
    """Everything that somebody who decides about a study has to know."""
    found = _found(home, word)
    for number, known in enumerate(found):
        if number:
            console.rule()
        _show_one(home, known, found[0])


def decide(home: Home, words: Iterable[str], choice: Choice, note: str, *, every: bool, yes: bool) -> None:
    """Decide about studies, after a question about each.

    Args:
        home: the hospital's folder.
        words: names, digests' beginnings or study files.
        choice: what is decided.
        note: what the person says about it.
        every: a name stands for all its variants.
        yes: do not ask, and do not show what is approved.

    Raises:
        PolicyError: there is no such study, or a name stands for several.
    """
    policy = Policy(home.folder)
    verb = {"approved": "approve", "refused": "refuse", "withdrawn": "withdraw from"}[choice]
    for word in words:
        found = _found(home, word)
        if len(found) > 1 and not every:
            digests = ", ".join(study.digest[:SHOWN] for study in found)
            raise PolicyError(
                f"{len(found)} variants of the study have this name ({digests})",
                where=" ".join(word.split())[:80],
                remedy="Look at them with phcc-client show; then name each by its digest, or add --all",
            )
        open_ones = [known for known in found if _can_become(known, choice)]
        if not open_ones:
            console.print(f"{plain(word)}: nothing to {verb}; it is {found[0].standing}")
        for known in open_ones:
            if choice == "approved":
                _tell_overlaps(home, known) if yes else _show_one(home, known, found[0])
            unseen = "" if known.study else ", without having seen it"
            if yes or typer.confirm(
                f"{verb.capitalize()} {plain(known.name)} {known.digest[:SHOWN]}{unseen}?"
            ):
                policy.decide(known.digest, choice, note)
                console.print(f"{plain(known.name)} {known.digest[:SHOWN]}: {choice}")
            else:
                console.print("nothing was decided")


def prepare(home: Home, word: str, *, again: bool) -> None:
    """Make this hospital's images ready for a study, and say what came of it."""
    from phcc_client.preparations import preparation_folder
    from phcc_client.preparing import prepare_site

    ready: set[Path] = set()
    for known in _found(home, word):
        if known.study is None:
            raise _only_a_card(known)
        for arm, study in arms_of(known.study).items():
            folder = preparation_folder(home.site, study, home.settings.hospital, known.study)
            if folder in ready:  # most arms differ in nothing that is prepared
                continue
            ready.add(folder)
            with Progress(console=console, transient=True) as bar:
                task = bar.add_task(f"preparing cases for {plain(arm)}", total=None)
                advance = functools.partial(_advance, bar, task)
                site = prepare_site(home, study, advance, again=again, whole=known.study)
            _tell_prepared(home, known, site)
        _tell_overlaps(home, known)


def _can_become(known: KnownStudy, choice: Choice) -> bool:
    return known.standing == "approved" if choice == "withdrawn" else known.standing != choice


def _found(home: Home, word: str) -> tuple[KnownStudy, ...]:
    """Studies by name or digest, or the one in a file that somebody sent."""
    policy = Policy(home.folder)
    path = Path(word)
    if path.suffix in (".yaml", ".yml") and path.is_file():
        return policy.find(policy.see(read_text(path)).digest)
    return policy.find(word)


def _show_one(home: Home, known: KnownStudy, first: KnownStudy) -> None:
    console.print(f"[bold]{plain(known.name)}[/]  [{_STYLES[known.standing]}]{known.standing}[/]")
    _pairs("", [("digest", known.digest), ("package", f"{keys.DISTRIBUTION} {keys.package_version()}")])
    _pairs("Purpose", [("", plain(known.purpose or "not said; ask the coordinator"))])
    if known.study is None:
        console.print(
            "[yellow]Only its card came in so far. The study itself comes with the first order; or ask[/]"
        )
        console.print("[yellow]the coordinator for its file, and look at that: phcc-client show FILE[/]")
        return
    if first.study is not None and known != first:
        found = differences(known.study, first.study)
        _pairs(f"Differs from {first.digest[:SHOWN]} in", [("", plain(line)) for line in found])
    arms = arms_of(known.study)
    _pairs("Asked for", asked_for(known.study))
    _pairs("Compares these arms", compared(known.study, arms))
    _pairs("Leaves this hospital", leaves(known.study, _weights(arms.values()), arms.values()))
    _pairs("Protection", privacy(known.study, home.settings))
    _tell_overlaps(home, known)


def _weights(arms: Iterable[StudyConfig]) -> dict[str, int]:
    """Shared weights by stage, counted on the models themselves; of several arms the most."""
    from phcc_model.build import build_autoencoder, build_classifier, state_of
    from phcc_model.contract.manifest import Manifest

    most = {keys.PRETRAIN: 0, keys.FINETUNE: 0}
    models = {
        (study.model.model_dump_json(), study.data.phases, bool(study.pretrain.rounds)): study
        for study in arms
    }
    for study in models.values():
        model = Manifest.of(state_of(build_classifier(study))).size
        most[keys.FINETUNE] = max(most[keys.FINETUNE], model)
        if study.pretrain.rounds:
            model = Manifest.of(state_of(build_autoencoder(study))).size
            most[keys.PRETRAIN] = max(most[keys.PRETRAIN], model)
    return {stage: number for stage, number in most.items() if number}


def _pairs(title: str, pairs: Iterable[tuple[str, str]]) -> None:
    table = Table.grid(padding=(0, 2))
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for name, text in pairs:
        table.add_row(f"  {name}" if name else "", text)
    if title:
        console.print(f"[bold]{title}[/]")
    console.print(table)


def _advance(bar: Progress, task: TaskID, done: int, total: int) -> None:
    bar.update(task, completed=done, total=total)


def _tell_prepared(home: Home, known: KnownStudy, site: Site) -> None:
    """Counts as they are here, and as the coordinator will be told."""
    from phcc_client.announcement import card_of
    from phcc_client.guard import suppressed

    least = home.settings.minimum_count
    card = card_of(site, home.settings.hospital, known.digest, least)
    announced = suppressed(card, least)
    table = Table(
        "split", "cases", "patients", "positive", "negative", "announced as", box=None, pad_edge=False
    )
    for split in keys.SPLITS:
        own = [c[split] for c in (card.cases, card.patients, card.positives, card.negatives)]
        said = f"{announced.patients[split]} patients"
        if announced.patients[split]:
            said += f" ({announced.positives[split]} positive, {announced.negatives[split]} negative)"
        table.add_row(split, *map(str, own), said)
    console.print(table)
    if announced != card:
        console.print(
            f"[yellow]note:[/] fewer than {least} patients are not counted, and what is "
            "announced as 0 is not used (minimum_count)"
        )
    funnel = site.record.funnel
    console.print(f"{funnel.prepared} of {funnel.read} cases are ready in {plain(str(site.folder))}")
    for case in funnel.rejections[:SHOWN_CASES]:
        console.print(f"  set aside: {plain(case.case)}, because {plain(case.reason)}. {plain(case.remedy)}.")
    if len(funnel.rejections) > SHOWN_CASES:
        console.print(f"  and {len(funnel.rejections) - SHOWN_CASES} more, all in site.json there")


def _tell_overlaps(home: Home, known: KnownStudy) -> None:
    """Whom this study tests and another one of this hospital trains on, or the other way round."""
    from phcc_client.overlaps import overlaps

    for line in overlaps(home, known.digest):
        console.print(f"[yellow]warning:[/] {plain(line)}")


def _only_a_card(known: KnownStudy) -> PolicyError:
    return PolicyError(
        "only the card of this study came in, not the study itself",
        where=f"study {known.name}",
        remedy="Ask the coordinator for its file and name that, or wait for the first order",
    )
