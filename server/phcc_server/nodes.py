"""The SuperNodes that a SuperLink lets in, made equal to the keys that the register of hospitals has admitted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from phcc_model.contract.enrolment import fingerprint
from phcc_model.errors import PhccError
from phcc_server.hospitals import Register

UNREGISTERED = "unregistered"
"""Flower's word for a node that it remembers and does not let in."""


@dataclass(frozen=True)
class Node:
    """A SuperNode that a SuperLink knows.

    Attributes:
        node_id: Flower's.
        name: the hospital's, as it was registered.
        public_key: in OpenSSH's form.
        status: Flower's word for it.
    """

    node_id: int
    name: str
    public_key: str
    status: str


class Nodes(Protocol):
    """The SuperNodes of a SuperLink."""

    def nodes(self) -> Sequence[Node]:
        """All that are registered now."""
        ...

    def register(self, public_key: str, name: str) -> int:
        """Let a key in, and return its node's number."""
        ...

    def unregister(self, node_id: int) -> None:
        """Let it in no longer."""
        ...


def reconcile(register: Register, nodes: Nodes) -> list[str]:
    """Make a SuperLink's nodes equal to the keys that are admitted.

    Keys that are not admitted go first, so that a failure later cannot keep one in. A node's name is its
    hospital's: the coordinator trusts it to say who a node is, so a node with another name goes as well.

    Returns:
        What was done, in words; empty where nothing had to be.

    Raises:
        PhccError: the SuperLink does not answer, or does not let a key in; what could be done is done.
    """
    admitted = register.admitted_keys()
    done: list[str] = []
    present: set[str] = set()
    for node in nodes.nodes():
        key = " ".join(node.public_key.split()[:2])
        if node.status == UNREGISTERED:
            continue
        if admitted.get(key) == node.name and key not in present:
            present.add(key)
            continue
        nodes.unregister(node.node_id)
        done.append(f"{node.name or 'a node without a name'}: key {fingerprint(key)} is let in no longer")
    failed: list[PhccError] = []
    for key, hospital in admitted.items():
        if key in present:
            continue
        try:
            nodes.register(key, hospital)
        except PhccError as error:
            failed.append(error)
            continue
        done.append(f"{hospital}: key {fingerprint(key)} is let in")
    if failed:
        raise failed[0]
    return done
