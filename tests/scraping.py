"""Metrics as Prometheus reads them."""

from __future__ import annotations

from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from phcc_model.monitoring import Measures, registry_of


def exposition(measures: Measures) -> str:
    """What a scrape answers."""
    return generate_latest(registry_of(lambda: measures)).decode()


def samples(measures: Measures, prefix: str) -> dict[str, float]:
    """Every value by its name, the prefix left out, and its labels."""
    return {
        sample.name.removeprefix(f"{prefix}_")
        + "".join(f" {key}={value}" for key, value in sorted(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(exposition(measures))
        for sample in family.samples
    }
