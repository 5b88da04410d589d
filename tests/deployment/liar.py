"""A site that lies: it runs in place of ``flwr-clientapp`` at one hospital and bends what its desk answers.

Which lie it tells depends on the round, so that one study meets them all.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, RecordDict

from phcc_client import app, clientapp
from phcc_client.records import ARRAYS, FIELDS, KIND
from phcc_model.contract import keys
from phcc_model.contract.wire import Message
from phcc_model.marked import MARK

KEPT = "first-reply"


def not_a_number(content: RecordDict) -> None:
    codes = array(content, keys.CHANGE)
    codes[::7] = np.nan
    put(content, {keys.CHANGE: codes, keys.SCALES: array(content, keys.SCALES)})


def infinite(content: RecordDict) -> None:
    put(content, {keys.CHANGE: array(content, keys.CHANGE), keys.SCALES: np.array([np.inf], np.float32)})


def wrong_shape(content: RecordDict) -> None:
    codes = array(content, keys.CHANGE)
    put(content, {keys.CHANGE: codes[:-1].reshape(1, -1), keys.SCALES: array(content, keys.SCALES)})


def length_one(content: RecordDict) -> None:
    put(content, {keys.CHANGE: np.ones(1, np.float16), keys.SCALES: array(content, keys.SCALES)})


def wide(content: RecordDict) -> None:
    """A float64 bomb: 100 times the weights, eight bytes each."""
    codes = array(content, keys.CHANGE)
    put(content, {keys.CHANGE: np.zeros(codes.size * 100), keys.SCALES: array(content, keys.SCALES)})


def negative_count(content: RecordDict) -> None:
    fields(content)["patients"] = -5


def huge_count(content: RecordDict) -> None:
    fields(content)["patients"] = 10**9


def missing_name(content: RecordDict) -> None:
    put(content, {keys.CHANGE: array(content, keys.CHANGE)})


def extra_name(content: RecordDict) -> None:
    arrays = {name: array(content, name) for name in (keys.CHANGE, keys.SCALES)}
    put(content, {**arrays, "patient names": np.zeros(3, np.float32)})


def empty(content: RecordDict) -> None:
    del content[ARRAYS]
    del content[FIELDS]


def huge_change(content: RecordDict) -> None:
    put(content, {keys.CHANGE: array(content, keys.CHANGE), keys.SCALES: np.array([1e6], np.float32)})


def somebody_else(content: RecordDict) -> None:
    fields(content)["site"] = "C1"


LIES: dict[tuple[str, int], Callable[[RecordDict], None] | str] = {
    ("pretrain", 0): not_a_number,
    ("pretrain", 1): "replay",
    ("pretrain", 2): infinite,
    ("pretrain", 3): wrong_shape,
    ("pretrain", 4): length_one,
    ("pretrain", 5): wide,
    ("pretrain", 6): negative_count,
    ("finetune", 0): huge_count,
    ("finetune", 1): missing_name,
    ("finetune", 2): extra_name,
    ("finetune", 3): empty,
    ("finetune", 4): huge_change,
    ("finetune", 5): somebody_else,
}


def fields(content: RecordDict) -> ConfigRecord:
    record = content[FIELDS]
    assert isinstance(record, ConfigRecord)
    return record


def array(content: RecordDict, name: str) -> np.ndarray:
    record = content[ARRAYS]
    assert isinstance(record, ArrayRecord)
    return record[name].numpy().copy()


def put(content: RecordDict, arrays: dict[str, np.ndarray]) -> None:
    content[ARRAYS] = ArrayRecord({name: Array(values) for name, values in arrays.items()})


def bent(reply: Message, honest: Callable[[Message], RecordDict]) -> RecordDict:
    content = honest(reply)
    if fields(content).get(KIND) != "TrainReply":
        return content
    lie = LIES[(str(fields(content)["stage"]), int(str(fields(content)["round"])))]
    kept = Path(os.environ[MARK]) / KEPT
    if lie == "replay":  # what it sent in the first round, were it not for the NaN
        fields(content)["round"] = 0
    elif callable(lie):
        lie(content)
    kept.touch()
    return content


def main() -> None:
    honest = app.write_reply
    app.write_reply = lambda reply: bent(reply, honest)
    clientapp.main()


def install(home: Path) -> None:
    """Put the liar in the place of the hospital's own program; before the service of the home gets an order."""
    here = Path(__file__).parent
    program = home / "bin" / "flwr-clientapp"
    program.write_text(
        f"#!{sys.executable}\nimport sys\nsys.path.insert(0, {str(here)!r})\nimport liar\nliar.main()\n"
    )
    program.chmod(0o700)


if __name__ == "__main__":
    main()
