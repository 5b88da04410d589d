"""A run on the terminal: what is being done, how far it has come and how long it will take."""

from __future__ import annotations

import time
from types import TracebackType

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from phcc_model.contract import keys
from phcc_server.journal import Event
from phcc_server.pace import Pace, in_words

LINE_EVERY_S = 10.0
"""Without a terminal, how often file work says where it is."""


class Screen:
    """Shows files being worked on, then rounds; a bar on a terminal, plain lines elsewhere.

    Args:
        console: where to.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self._live = console.is_terminal
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.completed:.0f}/{task.total:.0f}"),
            TextColumn("{task.fields[left]}"),
            TimeElapsedColumn(),
            console=console,
            disable=not self._live,
        )
        self._task: TaskID | None = None
        self._what = ""
        self._began = time.monotonic()
        self._said = 0.0
        self._pace = Pace({})
        self._rounds: dict[str, dict[str, int]] = {}
        self._left: dict[tuple[str, str], int] = {}
        self._sites: dict[str, tuple[str, float]] = {}

    def __enter__(self) -> Screen:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def note(self, text: str) -> None:
        """One line, which may hold rich's markup."""
        at = time.strftime("%H:%M:%S")
        self._console.print(f"[dim]{at}[/] {text}", highlight=False, emoji=False, soft_wrap=True)

    def files(self, what: str, done: int, total: int) -> None:
        """Progress of work on files."""
        if what != self._what or self._task is None:
            self._start(what, total)
        now = time.monotonic()
        left = (now - self._began) / done * (total - done) if done > 1 else None
        self._show(what, done, total, left)
        if not self._live and (done == total or now - self._said > LINE_EVERY_S):
            self._said = now
            self.note(f"{what} {done}/{total}" + (f", about {in_words(left)} left" if done < total else ""))

    def event(self, event: Event) -> None:
        """One event of the run's journal."""
        fields = event.fields
        if event.kind == "plan":
            self._rounds = {a["arm"]: {s: int(a[s]) for s in keys.STAGES} for a in fields["arms"]}
            self._left = {(arm, s): n for arm, stages in self._rounds.items() for s, n in stages.items()}
            self._pace = Pace({s: sum(r[s] for r in self._rounds.values()) for s in keys.STAGES})
            self._start("training", self._pace.total)
        elif event.kind == "site":
            self._site(fields)
        elif event.kind == "note":
            self.note(escape(str(fields["text"])))
        elif event.kind == "round":
            self._round(fields)

    def _round(self, fields: dict[str, object]) -> None:
        stage, arm = str(fields["stage"]), str(fields["arm"])
        self._pace.round_done(stage, float(str(fields["seconds"])))
        self._skip_to(arm, stage, int(str(fields["round"])) + 1)
        left = self._pace.seconds_left
        rounds = self._rounds.get(arm, {}).get(stage, 0)
        line = escape(f"{arm}  {stage} {int(str(fields['round'])) + 1}/{rounds}")
        self._show(line, self._pace.done, self._pace.total, left)
        for name, label in (("loss", "loss"), ("validation_loss", "validation"), ("auc", "AUC")):
            if isinstance(value := fields.get(name), float):
                line += f"  {label} {value:.3f}"
        line += f"  {fields['sites']}/{fields['of']} sites  {float(str(fields['seconds'])):.1f} s"
        if fields["status"] != "COMPLETE":
            left_out = fields["left_out"]
            assert isinstance(left_out, list)
            line += f"  [yellow]{fields['status']}[/] ({escape('; '.join(map(str, left_out)))})"
        self.note(f"{line}  [dim]about {in_words(left)} left[/]")

    def _site(self, fields: dict[str, object]) -> None:
        """A line where a site's state changes, and now and then how far it is."""
        site, state = str(fields["site"]), str(fields["state"])
        reason = f" ({fields['reason']})" if fields.get("reason") else ""
        far = f", step {fields['step']} of {fields['steps']}" if fields.get("steps") else ""
        now = time.monotonic()
        before, said = self._sites.get(site, ("", 0.0))
        if before != state + reason or (state == "training" and now - said > LINE_EVERY_S):
            self._sites[site] = state + reason, now
            self.note(escape(f"{site} {state}{far}{reason}"))

    def _skip_to(self, arm: str, stage: str, done: int) -> None:
        """Take out of the plan what lies before this round and was not run: shared, found finished, given up.

        Arms run in the order of the plan, and an arm's stages in theirs.
        """
        if (arm, stage) not in self._left:
            return
        for place, left in self._left.items():
            here = place == (arm, stage)
            self._left[place] = self._rounds[arm][stage] - done if here else 0
            self._pace.skip(place[1], left - self._left[place] - (1 if here else 0))
            if here:
                return

    def _start(self, what: str, total: int) -> None:
        if self._task is not None:
            self._bar.remove_task(self._task)
        self._what, self._began, self._said = what, time.monotonic(), time.monotonic()
        self._task = self._bar.add_task(what, total=total, left="")

    def _show(self, what: str, done: int, total: int, left: float | None) -> None:
        if self._task is not None:
            self._bar.update(
                self._task, description=what, completed=done, total=total, left=f"{in_words(left)} left"
            )
