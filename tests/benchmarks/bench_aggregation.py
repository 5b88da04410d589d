"""Folding the sites' changes beside Flower's own aggregation, and its memory (row 5 of the speed table).

50 replies of 10 million parameters, of 4 different contents, in Flower's records. Both sides begin with the
records, weigh and add: ours takes each array as a view of its bytes, Flower's reads it out of them. Flower's gets
its replies in 40 arrays and in one, and its better way counts. That both give the same mean is checked first.
Ours as the coordinator does it also looks at every value, which Flower's does not; that time, and that of folding
arrays read already, are told beside it.

Memory is measured in a process of its own for 10 and for 100 replies, each made when it is its turn and dropped
once folded; it is counted in models of as many float32.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from bench import Run, as_launched, in_turns, options, peak_mib, ratio, told
from numpy.typing import NDArray

from phcc_model.contract import keys
from phcc_model.contract.codec import decode, encode
from phcc_server.aggregation import Aggregate
from phcc_server.records import unpacked

PARAMETERS, TINY_PARAMETERS = 10_000_000, 20_000
REPLIES, CONTENTS, ARRAYS = 50, 4, 40
ALIKE = 1e-5
WEIGHT = "num-examples"

Float = NDArray[np.float32]


def contents(parameters: int) -> list[Float]:
    """What different sites send."""
    rng = np.random.default_rng(0)
    return [rng.standard_normal(parameters, dtype=np.float32) for _ in range(CONTENTS)]


def in_records(changes: list[Float], replies: int, arrays: int) -> list[Any]:
    """Replies as Flower holds them; those of one content share their bytes."""
    from flwr.app import Array, ArrayRecord, MetricRecord, RecordDict

    held = [
        ArrayRecord({str(i): Array(part) for i, part in enumerate(np.array_split(change, arrays))})
        for change in changes
    ]
    return [
        RecordDict({"arrays": held[i % len(held)], "metrics": MetricRecord({WEIGHT: 10 + i})})
        for i in range(replies)
    ]


def flowers(records: list[Any]) -> Any:
    """Flower's weighted mean, a record."""
    from flwr.serverapp.strategy.strategy_utils import aggregate_arrayrecords

    return aggregate_arrayrecords(records, WEIGHT)


def flat(mean: Any) -> Float:
    """A mean of either side as one array."""
    return mean if isinstance(mean, np.ndarray) else np.concatenate([a.numpy() for a in mean.values()])


def ours(records: list[Any], *, checked: bool) -> Float:
    """Our weighted mean; `checked`: every value is looked at, as the coordinator does."""
    size = records[0]["arrays"]["0"].shape[0]
    aggregate = Aggregate(size)
    for record in records:
        change = unpacked(record["arrays"])["0"]
        if checked:
            change = decode({keys.CHANGE: change}, keys.FP32, size)
        aggregate.fold(change, float(record["metrics"][WEIGHT]))
    return aggregate.mean()


def fold_alone(changes: list[Float]) -> Float:
    """The same mean from arrays that are read already: what folding itself takes."""
    aggregate = Aggregate(changes[0].size)
    for i in range(REPLIES):
        aggregate.fold(changes[i % CONTENTS], 10.0 + i)
    return aggregate.mean()


def peak_models(parameters: int, replies: int, encoding: str) -> float:
    """Models in memory at the most while so many replies come in one by one."""
    rng = np.random.default_rng(0)
    reply = encode(rng.standard_normal(parameters, dtype=np.float32), encoding)

    def fold_all() -> None:
        aggregate = Aggregate(parameters)
        for i in range(replies):
            arrived = {name: array.copy() for name, array in reply.items()}
            change = decode(arrived, encoding, parameters)
            del arrived
            aggregate.fold(change, 10.0 + i)
            del change
        aggregate.mean()

    return peak_mib(fold_all) / (4 * parameters / 2**20)


def peak_elsewhere(parameters: int, replies: int, encoding: str) -> float:
    """`peak_models` in a process of its own."""
    command = [sys.executable, __file__, "--peak", str(parameters), str(replies), encoding]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return float(json.loads(done.stdout))


def speed(run: Run, parameters: int, repeats: int) -> bool:
    """Whether both sides gave the same mean."""
    changes = contents(parameters)
    whole, cut = (in_records(changes, REPLIES, arrays) for arrays in (1, ARRAYS))
    sides: dict[str, Callable[[], object]] = {
        f"Flower's in {ARRAYS} arrays": partial(flowers, cut),
        "Flower's in one": partial(flowers, whole),
        "ours": partial(ours, whole, checked=False),
        "ours with every value looked at": partial(ours, whole, checked=True),
        "folding alone": partial(fold_alone, changes),
    }
    (first, expected), *rest = ((name, flat(work())) for name, work in sides.items())
    for name, mean in rest:
        gap = float(np.linalg.norm(mean - expected) / np.linalg.norm(expected))
        print(f"aggregation: {name} and {first} are {gap:.1e} apart", flush=True)
        if gap > ALIKE:
            print("error: the sides do not give the same mean: nothing to compare", file=sys.stderr)
            return False
    times = in_turns(sides, repeats)
    best = min((name for name in sides if name.startswith("Flower")), key=lambda name: times[name].wall)
    detail = f"{REPLIES} replies of {parameters:,}: {told(times)}"
    run.tell("aggregation-against-flower", ratio(times[best], times["ours"]), 1.5, detail)
    return True


def main(words: list[str] | None = None) -> int:
    """Speed, then memory; 1 where the sides do not agree."""
    parser = options(__doc__ or "", repeats=5)
    parser.add_argument("--peak", nargs=3, help="parameters, replies, encoding: print the memory and stop")
    arguments = parser.parse_args(words)
    if arguments.peak:
        print(peak_models(int(arguments.peak[0]), int(arguments.peak[1]), arguments.peak[2]))
        return 0
    run = Run.begin(arguments)
    parameters = TINY_PARAMETERS if run.tiny else PARAMETERS
    if not speed(run, parameters, arguments.repeats):
        return 1
    for replies in (10, 100):
        models = peak_elsewhere(parameters, replies, keys.FP32)
        coded = peak_elsewhere(parameters, replies, keys.FP16)
        detail = f"models of {parameters:,} float32, replies in fp32; {coded:.2f} where they come in fp16"
        run.tell(f"aggregation-memory-{replies}-replies", models, 2.2, detail, at_most=True)
    return 0


if __name__ == "__main__":
    as_launched()
    sys.exit(main())
