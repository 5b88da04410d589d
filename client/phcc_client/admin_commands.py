"""What the commands of ``phcc-client`` do about the hospital itself: joining, settings, keys, outbox, logs."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Iterable, Mapping
from pathlib import Path

import typer
from rich.console import Console
from rich.table import Table

from phcc_client.error_log import ERROR_LOG
from phcc_client.home import Home
from phcc_client.outbox import Outbox, Sent
from phcc_client.policy import SHOWN, Policy
from phcc_client.wording import megabytes, told
from phcc_model.command_line import plain
from phcc_model.errors import ConfigError, StorageError

console = Console(soft_wrap=True, highlight=False, emoji=False)


def init(kit: Path, folder: Path, out: Path | None, *, replace: bool) -> None:
    """Join: make the folder and the key, write the admission file, say what to do next."""
    from phcc_client.joining import join

    joined = join(kit, folder, out, replace=replace)
    home = joined.home
    where = "" if _is_default(home) else f" --home {plain(str(home.folder))}"
    console.print(f"{home.settings.hospital} is set up in {plain(str(home.folder))}")
    console.print(f"  admission file   {plain(str(joined.admission))}")
    console.print(f"  key fingerprint  [bold]{joined.fingerprint}[/]")
    console.print(f"  authority        {joined.authority}")
    console.print("Next:")
    for number, step in enumerate(
        (
            "send the admission file to the coordinator; it holds no secret",
            "compare both by telephone: your key is then known to be yours, and their authority to be theirs",
            f"phcc-client set data=FOLDER{where}",
            f"phcc-client doctor{where}",
            f"phcc-client studies{where}, then show, approve and prepare the one that you take part in",
            f"phcc-client start{where}",
        ),
        1,
    ):
        console.print(f"  {number}. {step}")


def outbox(home: Home, study: str | None, last: int, *, as_json: bool) -> bool:
    """What left; whether the record holds."""
    box = Outbox(home.outbox)
    faults = box.verify()
    for fault in faults:
        console.print(f"[bold red]the record does not hold:[/] {plain(fault)}")
    names = {known.digest: known.name for known in Policy(home.folder).studies()}
    sent = [_with_name(one, names) for one in box.read()]
    sent = [one for one in sent if study is None or _is_of(one, study)]
    if as_json:
        for one in sent[-last:] if last else sent:
            print(json.dumps(one.model_dump(mode="json"), sort_keys=True))
        return not faults
    shown = _without_repeats(sent)
    table = Table("when (UTC)", "study", "arm, stage, round", "what left", box=None, pad_edge=False)
    for one in shown[-last:] if last else shown:
        place = f"{one.arm}, {one.stage}, {one.round}" if one.arm else ""
        name = one.study or (one.study_digest or "")[:SHOWN]
        noise = " (with noise)" if one.noised else ""
        table.add_row(f"{one.when:%Y-%m-%d %H:%M:%S}", plain(name), plain(place), plain(told(one) + noise))
    if shown:
        console.print(table)
    total = megabytes(sum(one.bytes for one in sent))
    holds = "does not hold" if faults else "holds"
    console.print(f"{len(sent)} messages, {total} of weights; the record {holds}")
    return not faults


def rotate(home: Home, out: Path | None) -> None:
    """Make the next key and the admission that goes with it."""
    from phcc_client.joining import rotate_key

    joined = rotate_key(home, out)
    console.print(f"admission file   {plain(str(joined.admission))}")
    console.print(f"key fingerprint  [bold]{joined.fingerprint}[/]")
    console.print(
        "Next: send the file to the coordinator; once they have admitted it, phcc-client activate-key."
    )
    console.print("Until then the present key goes on being used.")


def activate(home: Home, *, yes: bool) -> None:
    """Put the next key in place."""
    from phcc_client.joining import activate_key

    if yes or typer.confirm("Has the coordinator admitted the new key?"):
        console.print(
            f"this hospital's key is now {activate_key(home)}; restart it with phcc-client stop and start"
        )
    else:
        console.print("the present key stays")


def change(home: Home, changes: Iterable[str]) -> None:
    """Change settings, all or none of them.

    Raises:
        ConfigError: a key is unknown or a value is not valid, or it is not this machine's to change.
    """
    settings = home.settings
    for word in changes:
        if word.partition("=")[0].strip() == "hospital":
            raise ConfigError(
                "comes from the kit, the coordinator knows this hospital by it", where="hospital"
            )
        settings = settings.changed(word)
    if settings.data is not None and settings.data != home.settings.data:
        path = Path(settings.data).expanduser().resolve()
        settings = settings.model_copy(update={"data": str(path)})
        if not path.exists():
            console.print(f"[yellow]note:[/] there is nothing at {plain(str(path))} yet")
    Home.make(home.folder, settings)
    console.print("changed; what runs already takes it over at its next start")


def logs(home: Home, name: str | None, lines: int) -> None:
    """The end of the logs.

    Raises:
        ConfigError: there is no log of this name.
    """
    files = {file.stem: file for file in sorted(home.logs.glob("*.log"))}
    if (errors := home.site / ERROR_LOG).exists():
        files["errors"] = errors
    if name is not None and name not in files:
        raise ConfigError(
            "there is no such log",
            where=plain(name)[:80],
            remedy=f"There are: {', '.join(files) or 'none yet'}",
        )
    if not files:
        console.print("nothing was logged yet")
    for stem, file in files.items():
        if name in (None, stem):
            console.rule(plain(stem), align="left")
            for line in _end_of(file, lines):
                console.print("".join(c if c.isprintable() else " " for c in line), markup=False)


def _with_name(sent: Sent, names: Mapping[str, str]) -> Sent:
    """A message that only says its study's digest, with the name by which the study is known here."""
    return sent if sent.study else sent.model_copy(update={"study": names.get(sent.study_digest or "", "")})


def _is_of(sent: Sent, word: str) -> bool:
    return sent.study == word or (sent.study_digest or "").startswith(word)


def _without_repeats(sent: Iterable[Sent]) -> list[Sent]:
    """Of the signs of life that follow one another, the last."""
    kept: list[Sent] = []
    for one in sent:
        if kept and kept[-1].kind == one.kind == "Working":
            kept.pop()
        kept.append(one)
    return kept


def _end_of(file: Path, lines: int) -> list[str]:
    try:
        with file.open(encoding="utf-8", errors="replace") as stream:
            return list(deque((line.rstrip("\n") for line in stream), maxlen=lines))
    except OSError as error:
        raise StorageError(f"cannot be read ({error.strerror})", where=str(file)) from error


def _is_default(home: Home) -> bool:
    from phcc_client.options import DEFAULT_HOME

    return home.folder == DEFAULT_HOME.resolve()
