"""What a site sends in a round, in bytes and in accuracy (row 6 of the speed table).

A site of the demo's study (synthetic patients) pre-trains the demo's network for some rounds; then the same
order is given three times, in each encoding, to the session that a hospital runs. The bytes are those of all
arrays of its reply, beside the weights as float32; the error is the length of what was lost of the change, over
the length of the change. The order brings the weights as float32 in any encoding.
"""

from __future__ import annotations

import dataclasses
import sys
import tempfile
from pathlib import Path

import numpy as np
from bench import Run, as_launched, options
from small_study import prepared, small_study

from phcc_client.session import Runtime, Session
from phcc_model.contract import keys
from phcc_model.contract.codec import decode_change
from phcc_model.contract.manifest import Array, Manifest
from phcc_model.contract.messages import TrainOrder

sys.path.insert(0, str(Path(__file__).parents[1]))
from builders import train_order

ROUNDS, EPOCHS = 3, 4
GOALS = {keys.FP16: (0.50, 0.0005), keys.INT8: (0.26, 0.01)}
"""By encoding: bytes beside float32 weights, and error, at most."""


def replies(folder: Path, tiny: bool, threads: int) -> tuple[TrainOrder, dict[str, dict[str, Array]]]:
    """The order of the last round, and the arrays of the reply in each encoding."""
    study = small_study(tiny, f"pretrain.local_epochs={1 if tiny else EPOCHS}")
    site = prepared(study, folder).centres[0]
    session = Session(folder / "sites" / site, site, Runtime(threads=threads))
    order = train_order(study, keys.PRETRAIN, site, encoding=keys.FP32)
    for _ in range(ROUNDS - 1):
        change = session.train(order).arrays[keys.CHANGE]
        weights = order.arrays[keys.FLOAT] + change
        order = dataclasses.replace(
            order, round=order.round + 1, arrays={**order.arrays, keys.FLOAT: weights}
        )
    coded = {
        encoding: session.train(dataclasses.replace(order, encoding=encoding)).arrays
        for encoding in (keys.FP32, *GOALS)
    }
    return order, {encoding: dict(arrays) for encoding, arrays in coded.items()}


def size(arrays: dict[str, Array]) -> int:
    """Bytes of all arrays."""
    return sum(array.nbytes for array in arrays.values())


def main(words: list[str] | None = None) -> int:
    """Two lines for each encoding."""
    arguments = options(__doc__ or "").parse_args(words)
    run = Run.begin(arguments)
    with tempfile.TemporaryDirectory() as place:
        order, coded = replies(Path(place), run.tiny, run.threads)
    weights = {name: np.asarray(array) for name, array in order.arrays.items()}
    manifest = Manifest.of({"weights": weights[keys.FLOAT]})
    exact = coded[keys.FP32][keys.CHANGE].astype(np.float64)
    length, whole = np.linalg.norm(exact), np.linalg.norm(weights[keys.FLOAT].astype(np.float64))
    print(
        f"wire: {exact.size:,} weights, |change| / |weights| {length / whole:.3f}, round {ROUNDS} of the "
        "pre-training (synthetic patients)",
        flush=True,
    )
    for encoding, (goal, error_goal) in GOALS.items():
        change = decode_change(coded[encoding], encoding, manifest).delta
        share = size(coded[encoding]) / size(weights)
        error = float(np.linalg.norm(change - exact) / length)
        both = (size(weights) + size(coded[encoding])) / (2 * size(weights))
        detail = (
            f"{size(coded[encoding]):,} bytes back for {size(weights):,} of weights, which come as fp32: "
        )
        detail += f"{both:.1%} both ways together"
        # Goals are in whole per cents; the one scale of fp16 is four bytes beyond the half.
        run.tell(f"wire-{encoding}-bytes", round(share, 3), goal, detail, at_most=True)
        run.tell(f"wire-{encoding}-error", error, error_goal, "of the change's length", at_most=True)
    return 0


if __name__ == "__main__":
    as_launched()
    sys.exit(main())
