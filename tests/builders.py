"""A study that trains in milliseconds, and hospitals' folders for it, written as a real one's are.

Everything is drawn from seeds and goes through the cache and the site file: what is tested is what a hospital
runs, on fewer voxels.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from flwr.app import Context, RecordDict
from flwr.app import Message as FlowerMessage
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid
from flwr.supercore.task_identity import TaskIdentity
from numpy.typing import NDArray

from phcc_client.imaging.cache import entry_path, store
from phcc_client.imaging.case import PreparedCase
from phcc_client.imaging.dataset import Entry
from phcc_client.preparations import preparation_folder, terms_of
from phcc_client.session import Runtime, Session
from phcc_client.site import Split, write_site
from phcc_model.build import first_weights
from phcc_model.checkpoint import state_digest
from phcc_model.config import StudyConfig
from phcc_model.contract import keys
from phcc_model.contract.manifest import Manifest
from phcc_model.contract.messages import (
    CardOrder,
    EvaluateOrder,
    EvaluateReply,
    SiteCard,
    TrainOrder,
    TrainReply,
)
from phcc_model.seeds import derive_seed, generator
from phcc_model.study_file import dump_study
from phcc_server.sites import NoReply
from phcc_simulation.federation import MemorySites

TINY: dict[str, Any] = {
    "name": "tiny",
    "data": {
        "phases": ["pre-contrast", "arterial"],
        "crop": {"size": [4, 16, 16], "spacing_mm": [3.0, 2.0, 2.0]},
        "normalisation": "z-score",
    },
    "model": {
        "size": "custom",
        "depths": [1, 1],
        "dims": [8, 16],
        "stem": [1, 2, 2],
        "downsample": [[2, 2, 2]],
        "kernel": [3, 3, 3],
        "decoder_width": 8,
        "classifier": {"width": 8, "heads": 2},
    },
    "pretrain": {
        "rounds": 2,
        "batch_size": 4,
        "weighting": {"feature_dims": 8, "steps": 3, "uniform_fraction": 0.0},
    },
    "finetune": {"rounds": 2, "batch_size": 4, "learning_rate": 0.003},
    "evaluation": {"arms": ["full"], "bootstrap": 0},
}

Labels = Sequence[int | tuple[int, ...]]
Change = Callable[[TrainReply], TrainReply | NoReply]


@dataclasses.dataclass(frozen=True)
class Centre:
    """A hospital's patients: the label (1, 0 or -1) of each, by split; a tuple is one with several lesions."""

    train: Labels = ()
    validation: Labels = ()
    test: Labels = ()


CENTRES = {
    "Alma": Centre((1, 0, 1, 0, 0, -1), (1, 0), (0, 1)),
    "Berg": Centre((0, 1, 0, 0), (0, 1, 0)),
    "Cork": Centre((1, 1, 0), (1, 0)),
}


def tiny_study(**sections: Any) -> StudyConfig:
    """The tiny study with some keys set otherwise, section by section."""
    return StudyConfig.model_validate(merged(TINY, sections))


def merged(tree: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """A tree of settings with some of them changed, section by section."""
    both = {k: merged(tree[k], v) if isinstance(v, Mapping) and k in tree else v for k, v in changes.items()}
    return {**tree, **both}


def crop_of(study: StudyConfig, patient: str, label: int) -> PreparedCase:
    """A patient's crop: noise, and a lesion that lights up in the last phase where the label is 1."""
    draw = generator(0, "crop", patient)
    size = study.data.crop.size
    lesion_dhw = np.zeros(size, dtype=np.uint8)
    lesion_dhw[1:3, 4:12, 4:12] = 1
    volumes_pdhw = draw.normal(size=(len(study.data.phases), *size)) * 0.5
    volumes_pdhw[-1] += (2.0 if label == 1 else 0.2) * lesion_dhw
    present_p = np.ones(len(study.data.phases), dtype=np.bool_)
    return PreparedCase(volumes_pdhw.astype(np.float16), present_p, lesion_dhw)


def write_centre(folder: Path, study: StudyConfig, name: str, centre: Centre) -> Path:
    """Prepare one hospital as the study asks: crops into a cache beside it, its file into its folder.

    Args:
        folder: under which the hospital's folder and the cache lie.
        study: whose phases and crop are meant.
        name: of the hospital.
        centre: its patients.

    Returns:
        The hospital's folder.
    """
    entries: list[Entry] = []
    split_of: dict[str, Split] = {}
    splits: tuple[tuple[Split, Labels], ...] = (
        ("train", centre.train),
        ("validation", centre.validation),
        ("test", centre.test),
    )
    for split, labels in splits:
        for number, label in enumerate(labels):
            patient = f"{name}-{split}-{number}"
            for lesion, value in enumerate((label,) if isinstance(label, int) else label):
                case = f"{patient}-{lesion}"
                key = f"{derive_seed(0, 'crop', case, value):016x}" * 4
                if not entry_path(folder / "cache", key).exists():
                    store(folder / "cache", key, crop_of(study, case, value))
                entries.append(Entry(case, patient, name, None, value, float("nan"), None, key))
                split_of[case] = split
    site = folder / "sites" / name
    write_site(
        preparation_folder(site, study, name),
        name=name,
        settings=study.data,
        terms=terms_of(study, name),
        entries=entries,
        split_of=split_of,
        cache=folder / "cache",
    )
    return site


class RememberingSession(Session):
    """A session that knows by heart what it answered to an order, and so never trains the same twice.

    `test_session` shows that this cannot be told from training again.
    """

    def __init__(self, folder: Path, name: str, runtime: Runtime | None = None) -> None:
        super().__init__(folder, name, runtime)
        self.known: dict[str, Any] = {}

    def card(self, order: CardOrder) -> SiteCard:
        card: SiteCard = self._remembered(order, super().card)
        return card

    def train(self, order: TrainOrder) -> TrainReply:
        reply: TrainReply = self._remembered(order, super().train)
        return reply

    def evaluate(self, order: EvaluateOrder) -> EvaluateReply:
        reply: EvaluateReply = self._remembered(order, super().evaluate)
        return reply

    def _remembered(self, order: Any, answer: Callable[[Any], Any]) -> Any:
        key = f"{order!r} {state_digest(order.arrays)}"
        if key not in self.known:
            self.known[key] = answer(order)
        return self.known[key]


def open_sessions(
    folder: Path,
    study: StudyConfig,
    centres: Mapping[str, Centre] = CENTRES,
    kind: type[Session] = Session,
) -> dict[str, Session]:
    """Hospitals' sessions, written to this folder first."""
    return {
        name: kind(write_centre(folder, study, name, centre), name, Runtime(threads=1))
        for name, centre in centres.items()
    }


class TamperedSites(MemorySites):
    """A federation in memory in which something goes wrong.

    Args:
        sessions: by site.
        change: what becomes of a site's training reply on its way.
        crash_at: the call, ``(what, stage, round, site)``, at which this process is killed, as it were.
        loss: the loss that every site reports for each round of a stage, in place of its own; None is silence.
    """

    def __init__(
        self,
        sessions: Mapping[str, Session],
        change: Mapping[str, Change] | None = None,
        crash_at: tuple[str, str, int, str] | None = None,
        loss: Mapping[str, Sequence[float | None]] | None = None,
    ) -> None:
        super().__init__(sessions)
        self.change = change or {}
        self.crash_at = crash_at
        self.loss = loss or {}
        self.asked: Counter[tuple[str, str, int, str]] = Counter()

    def train(
        self, orders: Sequence[TrainOrder], deadline_s: float
    ) -> Iterator[tuple[TrainOrder, TrainReply | NoReply]]:
        for order in orders:
            self._count("train", order)
            for _, reply in super().train([order], deadline_s):
                if isinstance(reply, TrainReply) and order.site in self.change:
                    reply = self.change[order.site](reply)
                yield order, reply

    def evaluate(
        self, orders: Sequence[EvaluateOrder], deadline_s: float
    ) -> Iterator[tuple[EvaluateOrder, EvaluateReply | NoReply]]:
        for order in orders:
            self._count("evaluate", order)
            for _, reply in super().evaluate([order], deadline_s):
                yield order, self._scored(order, reply)

    def _scored(self, order: EvaluateOrder, reply: EvaluateReply | NoReply) -> EvaluateReply | NoReply:
        if order.stage not in self.loss or isinstance(reply, NoReply):
            return reply
        loss = self.loss[order.stage][order.round]
        return NoReply("missing", "silence") if loss is None else dataclasses.replace(reply, loss=loss)

    def _count(self, what: str, order: TrainOrder | EvaluateOrder) -> None:
        call = (what, order.stage, order.round, order.site)
        self.asked[call] += 1
        if call == self.crash_at:
            raise KeyboardInterrupt


def card_order(study: StudyConfig) -> CardOrder:
    """Asks a site who it is."""
    return CardOrder(
        package=keys.package_version(), study_digest=study.digest, study=dump_study(study), arm="full"
    )


def train_order(
    study: StudyConfig,
    stage: str,
    site: str,
    round_index: int = 0,
    state: Mapping[str, NDArray[Any]] | None = None,
    **others: Any,
) -> TrainOrder:
    """Asks a site to train; the study's first weights where none are given."""
    state = first_weights(study, stage) if state is None else state
    manifest = Manifest.of(state)
    values: dict[str, Any] = {
        "package": keys.package_version(),
        "study_digest": study.digest,
        "study": dump_study(study),
        "arm": "full",
        "stage": stage,
        "round": round_index,
        "rounds": 3,
        "site": site,
        "seed": study.seed,
        "manifest_digest": manifest.digest,
        "encoding": study.federation.encoding,
        "arrays": manifest.pack(state),
    }
    return TrainOrder(**(values | others))


def evaluate_order(study: StudyConfig, stage: str, site: str, split: str = "validation") -> EvaluateOrder:
    """Asks a site to score the study's first weights."""
    order = train_order(study, stage, site)
    shared = {field.name for field in dataclasses.fields(EvaluateOrder)} - {"split"}
    return EvaluateOrder(**{name: getattr(order, name) for name in shared}, split=split)


def card_of(session: Session, study: StudyConfig) -> SiteCard:
    """How a site announces itself."""
    return session.card(card_order(study))


Answer = Callable[[FlowerMessage], FlowerMessage | None]
"""What a node says to a message; None where it stays silent."""


class MemoryGrid(Grid):
    """Flower's grid without a network: every node answers as soon as it is asked, and waits to be pulled.

    Args:
        nodes: by number; more may be put in later.

    Attributes:
        pushed: every message that was sent, in order.
        unreachable: nodes for which Flower takes no message.
    """

    def __init__(self, nodes: Mapping[int, Answer]) -> None:
        # What Flower sets when it starts a task; without it no message can be made.
        TaskIdentity.run_id = TaskIdentity.node_id = TaskIdentity.task_id = 1
        self.nodes = dict(nodes)
        self.pushed: list[FlowerMessage] = []
        self.unreachable: set[int] = set()
        self._waiting: dict[str, FlowerMessage] = {}

    def get_node_ids(self) -> Iterable[int]:
        return list(self.nodes)

    def push_messages(self, messages: Iterable[FlowerMessage]) -> Iterable[str]:
        ids = []
        for message in messages:
            node = message.metadata.dst_node_id
            name = "" if node in self.unreachable else f"message-{len(self.pushed)}"
            message.metadata.__dict__["_message_id"] = name  # as Flower's own grids do
            self.pushed.append(message)
            if name and (reply := self.nodes[node](message)) is not None:
                self._waiting[name] = reply
            ids.append(name)
        return ids

    def pull_messages(self, message_ids: Iterable[str]) -> Iterable[FlowerMessage]:
        return [self._waiting.pop(name) for name in message_ids if name in self._waiting]

    def set_run(self, run: Any) -> None:
        raise NotImplementedError

    @property
    def run(self) -> Any:
        raise NotImplementedError

    def create_message(self, *args: Any, **kwargs: Any) -> FlowerMessage:
        raise NotImplementedError

    def send_and_receive(self, messages: Iterable[FlowerMessage], *, timeout: float | None = None) -> Any:
        raise NotImplementedError


def flower_node(app: ClientApp, number: int = 1, **configuration: str | int) -> Answer:
    """A node that runs a client's app in this process, with its configuration."""
    context = Context(
        run_id=1, node_id=number, node_config=dict(configuration), state=RecordDict(), run_config={}
    )
    return lambda message: app(message, context)
