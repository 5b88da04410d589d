"""The site's Flower app: a thin shell around `phcc_client.session.Session`.

A node's configuration names the site and its folder (``site="H1" site-folder="/srv/phcc/H1"``). Whatever goes
wrong is answered with a `Failure` of our own: Flower would send the exception's whole text, paths included, to
the coordinator.
"""

from __future__ import annotations

import contextlib
import logging
import traceback
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar

from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from phcc_client.guard import failure_of
from phcc_client.records import read_order, write_reply
from phcc_client.session import Runtime, Session
from phcc_model.contract import wire
from phcc_model.contract.messages import CardOrder, EvaluateOrder, TrainOrder
from phcc_model.errors import ConfigError

log = logging.getLogger("phcc_client")

ERROR_LOG = "errors.log"
"""In the site's folder: what went wrong, in full. It never leaves."""
UNKNOWN = "unknown"
LONGEST_NAME = 128
"""Characters of a site's name, as the contract has it."""

Order = TypeVar("Order", bound=wire.Message)
Locate = Callable[[Context], Session]

app = ClientApp()


def session_of(context: Context) -> Session:
    """The session that a node's configuration describes.

    Raises:
        ConfigError: the configuration does not name the site and its folder, or the name cannot travel.
    """
    name, folder = context.node_config.get("site"), context.node_config.get("site-folder")
    if not isinstance(name, str) or not isinstance(folder, str):
        raise ConfigError(
            "the node's configuration must name this site and its folder",
            where="node-config",
            remedy='Start the SuperNode with --node-config \'site="H1" site-folder="/path"\'',
        )
    if not (name.isprintable() and 0 < len(name) <= LONGEST_NAME):
        raise ConfigError(
            f"a site's name is one line of 1 to {LONGEST_NAME} printable characters",
            where="node-config: site",
        )
    threads = context.node_config.get("threads")
    device = context.node_config.get("device", "cpu")
    return Session(Path(folder), name, Runtime(str(device), threads if isinstance(threads, int) else None))


def answer(
    message: Message,
    context: Context,
    locate: Locate,
    kind: type[Order],
    act: Callable[[Session, Order], wire.Message],
) -> Message:
    """Read an order, act on it, and answer with the reply or with a scrubbed failure."""
    session: Session | None = None
    try:
        session = locate(context)
        reply = act(session, read_order(message.content, kind))
    except Exception as error:
        log.exception("the order could not be carried out")
        if session is not None:
            write_down(session.folder, error)
        reply = failure_of(error, session.name if session is not None else UNKNOWN)
    return Message(content=write_reply(reply), reply_to=message)


def write_down(folder: Path, error: Exception) -> None:
    """Append an error, whole, to the site's own log: a client's process keeps no other."""
    text = "".join(traceback.format_exception(error))
    with contextlib.suppress(OSError), (folder / ERROR_LOG).open("a", encoding="utf-8") as stream:
        stream.write(f"{datetime.now(UTC).isoformat(timespec='seconds')} {text}\n")


def serve(client_app: ClientApp, locate: Locate) -> None:
    """Register the three things that a site does on a Flower app."""

    @client_app.query()
    def card(message: Message, context: Context) -> Message:
        return answer(message, context, locate, CardOrder, Session.card)

    @client_app.train()
    def train(message: Message, context: Context) -> Message:
        return answer(message, context, locate, TrainOrder, Session.train)

    @client_app.evaluate()
    def evaluate(message: Message, context: Context) -> Message:
        return answer(message, context, locate, EvaluateOrder, Session.evaluate)


serve(app, session_of)
