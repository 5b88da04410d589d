"""SCAFFOLD's control variates on the wire: two more arrays of an order, one or two more of a reply.

No other algorithm's messages hold them, and nothing of the others changes; so the contract's version stays. Both
sides know from the study whether they must be there, and refuse them where they must not.

An order carries ``control``, the mean control variate of the sites, laid out as the float32 weights are, and
``control.round``, the last round of this stage whose reply of *this* site is in that mean (-1: none). A site goes
on from what it kept in that round: one whose reply came too late, or was refused, would otherwise take for known
what the coordinator never had, and the mean would be wrong ever after.

A reply carries the change of the site's control variate, coded as the change of the weights is: it is a function
of gradients, their mean over the round's steps, and so tells of them more directly than the weights' change does.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from phcc_model.contract import codec, keys
from phcc_model.contract.manifest import Array, check_flats
from phcc_model.errors import ContractError

Float = NDArray[np.float32]


def is_control(name: str) -> bool:
    """Whether an array of a message is one of these."""
    return name == keys.CONTROL or name.startswith(keys.OF_CONTROL)


def without_control(arrays: Mapping[str, Array]) -> dict[str, Array]:
    """A message's other arrays."""
    return {name: array for name, array in arrays.items() if not is_control(name)}


def order_arrays(control: Float, last_round: int) -> dict[str, Array]:
    """What travels to a site.

    Args:
        control: the mean control variate, 1-D.
        last_round: the last one whose reply of this site is in it; -1: none.
    """
    return {keys.CONTROL: control, keys.CONTROL_ROUND: np.array([last_round], np.int64)}


def read_order(arrays: Mapping[str, Array], size: int) -> tuple[Float, int]:
    """The mean control variate, and the last round of which it knows this site.

    Args:
        arrays: of the order, all of them.
        size: number of shared float32 weights.

    Raises:
        ContractError: they are not there, of a wrong shape or dtype, or not finite.
    """
    found = {name: array for name, array in arrays.items() if is_control(name)}
    check_flats(found, {keys.CONTROL: ("float32", size), keys.CONTROL_ROUND: ("int64", 1)})
    control = found[keys.CONTROL]
    if not codec.is_finite(control):
        raise ContractError("holds values that are not finite", where=keys.CONTROL)
    return control, int(found[keys.CONTROL_ROUND][0])


def encode(delta: Float, encoding: str) -> dict[str, Array]:
    """The change of a site's control variate as a reply's arrays.

    Raises:
        ContractError: as `codec.encode`.
    """
    return {keys.OF_CONTROL + name: array for name, array in codec.encode(delta, encoding).items()}


def decode(arrays: Mapping[str, Array], encoding: str, size: int) -> Float:
    """The change of a site's control variate out of a reply's arrays.

    Args:
        arrays: of the reply, all of them.
        encoding: of the reply.
        size: number of shared float32 weights.

    Raises:
        ContractError: they are not there, of a wrong shape or dtype, or not finite.
    """
    found = {name.removeprefix(keys.OF_CONTROL): a for name, a in arrays.items() if is_control(name)}
    try:
        return codec.decode(found, encoding, size)
    except ContractError as error:
        raise ContractError(error.what, where=f"{keys.OF_CONTROL}{error.where}") from error
