"""FedAvg as Flower ships it, over one float32 array; the clients send back what they got."""

from __future__ import annotations

import json
import time
from pathlib import Path

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg

server_app = ServerApp()
client_app = ClientApp()


class Timed(FedAvg):
    """FedAvg that notes when each round's training was asked for, and when it was aggregated."""

    def __init__(self) -> None:
        super().__init__(fraction_evaluate=0.0, min_train_nodes=2, min_available_nodes=2)
        self.began = 0.0
        self.seconds: list[float] = []

    def configure_train(self, server_round, arrays, config, grid):  # type: ignore[no-untyped-def]
        self.began = time.monotonic()
        return super().configure_train(server_round, arrays, config, grid)

    def aggregate_train(self, server_round, replies):  # type: ignore[no-untyped-def]
        done = super().aggregate_train(server_round, replies)
        self.seconds.append(time.monotonic() - self.began)
        return done


@server_app.main()
def main(grid: Grid, context: Context) -> None:
    weights = np.random.default_rng(0).standard_normal(int(context.run_config["elements"]), np.float32)
    strategy = Timed()
    strategy.start(
        grid=grid,
        initial_arrays=ArrayRecord({"float32": Array(weights)}),
        num_rounds=int(context.run_config["rounds"]),
        train_config=ConfigRecord({}),
    )
    Path(str(context.run_config["out"])).write_text(json.dumps(strategy.seconds))


@client_app.train()
def train(message: Message, context: Context) -> Message:
    content = RecordDict({"arrays": message.content["arrays"], "metrics": MetricRecord({"num-examples": 10})})
    return Message(content=content, reply_to=message)
