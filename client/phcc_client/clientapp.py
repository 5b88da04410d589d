"""What runs in place of ``flwr-clientapp`` at a hospital: our app, whatever the bundle that came says.

Flower would unpack the bundle that the coordinator sent and import its code. Here nothing of a bundle is ever
imported: the code is the package that this hospital has installed, and a bundle that holds more than its
description is refused. Flower's node starts a program by the name ``flwr-clientapp``; `supernode` puts this
one first on the node's path.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable

from flwr.clientapp import ClientApp
from flwr.supernode.cli.flwr_clientapp import flwr_clientapp
from flwr.supernode.runtime import run_clientapp

from phcc_client.app import app
from phcc_model.errors import PolicyError

HARMLESS = frozenset({"pyproject.toml", "README.md", "LICENSE", ".info/CONTENT"})
"""All that a bundle may hold."""
LARGEST_BUNDLE = 1_000_000


def check_bundle(content: bytes) -> None:
    """Check that a bundle holds no code.

    Raises:
        PolicyError: it does, or it cannot be read.
    """
    try:
        if len(content) > LARGEST_BUNDLE:
            raise ValueError("it is too large")
        with zipfile.ZipFile(io.BytesIO(content)) as bundle:
            names = bundle.namelist()
    except (zipfile.BadZipFile, ValueError, OSError) as error:
        raise PolicyError("the bundle that came with the run cannot be read", where="bundle") from error
    if foreign := sorted(set(names) - HARMLESS):
        raise PolicyError(
            f"the bundle that came with the run holds {len(foreign)} files that could be code",
            where="bundle",
            remedy="Only a bundle made by phcc-server submit is taken",
        )


def _our_app(*_: object, **__: object) -> Callable[..., ClientApp]:
    return lambda *_: app


def _no_code(content: bytes, *_: object, **__: object) -> None:
    check_bundle(content)


def main() -> None:
    """Run one message of Flower's through our app."""
    for name, ours in (("install_from_fab", _no_code), ("get_load_client_app_fn", _our_app)):
        if not hasattr(run_clientapp, name):
            raise SystemExit(f"this Flower loads apps in another way (no {name}): install flwr 1.41")
        setattr(run_clientapp, name, ours)
    flwr_clientapp()
