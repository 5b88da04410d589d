"""The site's Flower app: a thin shell around whoever answers an order.

In a hospital that is its `Desk`, found by the environment of the node (``PHCC_CLIENT_HOME``); in a simulation it
is a `Session` in this very process. Whatever goes wrong is answered with a `Failure` of our own: Flower would
send the exception's whole text, paths included, to the coordinator.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from phcc_client.error_log import write_down
from phcc_client.guard import failure_of
from phcc_client.records import kind_of, read_order, write_reply
from phcc_model.contract import wire
from phcc_model.contract.messages import CardOrder, EvaluateOrder, PollOrder, TrainOrder
from phcc_model.errors import ConfigError

log = logging.getLogger("phcc_client")

HOME_VARIABLE = "PHCC_CLIENT_HOME"
UNKNOWN = "unknown"


class Answering(Protocol):
    """Who answers a site's orders."""

    name: str
    folder: Path

    def card(self, order: CardOrder) -> wire.Message:
        """Who this site is."""

    def train(self, order: TrainOrder) -> wire.Message:
        """What training gave, or how far it is."""

    def evaluate(self, order: EvaluateOrder) -> wire.Message:
        """How well the weights do, or how far it is."""

    def poll(self, order: PollOrder) -> wire.Message:
        """The reply to an order that came before, or how far it is."""

    def failed(self, error: Exception) -> wire.Message:
        """What is said when one of the above raises."""


Locate = Callable[[Context], Answering]

app = ClientApp()


def desk_of(context: Context) -> Answering:
    """The desk of the hospital on whose machine this process runs.

    Raises:
        ConfigError: the environment does not say where its home is.
        PhccError: its home cannot be opened.
    """
    del context
    if not (home := os.environ.get(HOME_VARIABLE)):
        raise ConfigError(
            "the environment does not name the hospital's folder",
            where=HOME_VARIABLE,
            remedy="Start the node with phcc-client start",
        )
    from phcc_client.desk import open_desk

    return open_desk(Path(home))


def answer(
    message: Message, context: Context, locate: Locate, kinds: tuple[type[wire.Message], ...]
) -> Message:
    """Read an order of one of these kinds, act on it, and answer with the reply or with a scrubbed failure."""
    answering: Answering | None = None
    try:
        answering = locate(context)
        kind = kind_of(message.content, kinds)
        reply = _act(answering, read_order(message.content, kind))
    except Exception as error:
        log.exception("the order could not be carried out")
        if answering is not None:
            write_down(answering.folder, error)
        reply = answering.failed(error) if answering is not None else failure_of(error, UNKNOWN)
    return Message(content=write_reply(reply), reply_to=message)


def _act(answering: Answering, order: wire.Message) -> wire.Message:
    if isinstance(order, TrainOrder):
        return answering.train(order)
    if isinstance(order, EvaluateOrder):
        return answering.evaluate(order)
    if isinstance(order, PollOrder):
        return answering.poll(order)
    assert isinstance(order, CardOrder)
    return answering.card(order)


def serve(client_app: ClientApp, locate: Locate) -> None:
    """Register what a site does on a Flower app."""

    @client_app.query()
    def query(message: Message, context: Context) -> Message:
        return answer(message, context, locate, (CardOrder, PollOrder))

    @client_app.train()
    def train(message: Message, context: Context) -> Message:
        return answer(message, context, locate, (TrainOrder,))

    @client_app.evaluate()
    def evaluate(message: Message, context: Context) -> Message:
        return answer(message, context, locate, (EvaluateOrder,))


serve(app, desk_of)
