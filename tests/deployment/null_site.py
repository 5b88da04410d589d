"""A site that trains nothing: in place of a hospital's desk it answers an order at once with a small change."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import numpy as np
from flwr.clientapp import ClientApp

from phcc_client import app, clientapp
from phcc_client.home import Home
from phcc_model.contract import codec, keys
from phcc_model.contract.manifest import Manifest
from phcc_model.contract.messages import (
    CardOrder,
    EvaluateOrder,
    Failure,
    PollOrder,
    SiteCard,
    TrainOrder,
    TrainReply,
    Working,
)

PATIENTS = 10


class NullDesk:
    """Answers as a hospital with ten patients would, without having any."""

    def __init__(self, home: Home) -> None:
        self.name, self.folder = home.settings.hospital, home.folder

    def card(self, order: CardOrder) -> SiteCard:
        counts = {"train": PATIENTS, "validation": 0, "test": 0}
        return SiteCard(
            package=keys.package_version(),
            site=self.name,
            study_digest=order.study_digest,
            patients=counts,
            cases=counts,
            positives={**counts, "train": PATIENTS // 2},
            negatives={**counts, "train": PATIENTS // 2},
        )

    def train(self, order: TrainOrder) -> TrainReply:
        size = Manifest.of(order.arrays).size
        draw = np.random.default_rng(order.round)
        delta = draw.standard_normal(size, np.float32) * np.float32(1e-3)
        whole = {kind: flat for kind, flat in order.arrays.items() if kind != keys.FLOAT}
        return TrainReply(
            package=keys.package_version(),
            study_digest=order.study_digest,
            arm=order.arm,
            stage=order.stage,
            round=order.round,
            site=self.name,
            manifest_digest=order.manifest_digest,
            encoding=order.encoding,
            patients=PATIENTS,
            cases=PATIENTS,
            steps=1,
            seconds=0.0,
            metrics={"loss": 1.0},
            arrays=codec.encode_change(codec.Change(delta, whole), order.encoding),
        )

    def evaluate(self, order: EvaluateOrder) -> Failure:
        return self.failed(NotImplementedError())

    def poll(self, order: PollOrder) -> Working:
        """It keeps nothing: whatever is asked for has to be sent again, as when a message was lost on its way."""
        return Working(
            package=keys.package_version(),
            site=self.name,
            order=order.order,
            state=keys.UNKNOWN,
            step=0,
            steps=0,
            seconds=0.0,
        )

    def failed(self, error: Exception) -> Failure:
        return Failure(
            package=keys.package_version(), site=self.name, code="internal", line=type(error).__name__
        )


def main() -> None:
    """In place of ``flwr-clientapp``."""
    mine = ClientApp()
    app.serve(mine, lambda _: NullDesk(Home.open(Path(os.environ[app.HOME_VARIABLE]))))
    clientapp.app = mine
    clientapp.main()


def install(home: Path) -> None:
    """Put the null site in the place of the hospital's own program."""
    program = home / "bin" / "flwr-clientapp"
    here = str(Path(__file__).parent)
    program.write_text(
        f"#!{sys.executable}\nimport sys\nsys.path.insert(0, {here!r})\nimport null_site\nnull_site.main()\n"
    )
    program.chmod(0o700)
