"""How the sites' work becomes one model: the part of a study's schema that says so."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from phcc_model.section import Decay, Fraction, Positive, Section


class FederationSettings(Section):
    """How the sites' work becomes one model."""

    algorithm: Literal["fedavg", "fedprox", "fedadam", "fedyogi", "fedema", "fedbn", "scaffold"] = "fedavg"
    proximal: float = Field(0.01, ge=0.0, description="FedProx's mu")
    server_learning_rate: Positive = Field(0.01, description="FedAdam's and FedYogi's eta, at the server")
    server_betas: tuple[Decay, Decay] = Field(
        (0.9, 0.99),
        description="FedAdam and FedYogi: share of each moment kept from the round before; as published, and too "
        "much of the first for a study of a few dozen rounds, which swings to and fro: 0.5 (DECISIONS 45)",
    )
    server_tau: Positive = Field(
        1e-3,
        description="FedAdam and FedYogi: added to the root of the second moment, which starts at its square",
    )
    ema_tau: Fraction = Field(
        0.7,
        description="FedEMA: share of its own weights that a site keeps where it first meets the global ones",
    )
    weighting: Literal["patients", "equal", "capped"] = "patients"
    cap: int = Field(200, ge=1, description="weighting capped: no site counts for more patients than this")
    encoding: Literal["fp16", "fp32", "int8"] = Field(
        "fp16", description="how a site's change is written on the wire"
    )
    minimum_sites: int = Field(2, ge=1, description="quorum: a round with fewer replies is not aggregated")
    required_sites: tuple[str, ...] = ()
    below_quorum: Literal["stop", "wait"] = Field(
        "stop", description="a round with too few replies: stop there, or wait for sites and train it again"
    )
    start_patience_s: Positive = Field(300.0, description="how long the first round waits for every site")
    lost_after_s: Positive = Field(
        300.0,
        description="deployment: a site of which nothing is heard for so long is lost for the round; half of it "
        "must be enough for the weights to travel there and back",
    )
    round_deadline_s: Positive = 3600.0
    largest_change: Positive = Field(
        20.0,
        description="a reply whose change is longer than this many times the last round's is set aside",
    )

    @property
    def controlled(self) -> bool:
        """Whether control variates travel beside the weights."""
        return self.algorithm == "scaffold"
