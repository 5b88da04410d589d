"""The bundle that Flower carries around: a description, and no code."""

from __future__ import annotations

from phcc_model.contract import keys

BUNDLE = """\
[project]
name = "phcc-ssl-federated"
version = "{version}"
description = "Bundle without code: what runs is the installed package"
license = "Apache-2.0"

[tool.flwr.app]
publisher = "phcc-ssl-federated"
fab-include = ["README.md"]

[tool.flwr.app.components]
serverapp = "{server}.app:server_app"
clientapp = "{client}.app:client_app"

[tool.flwr.app.config]
{config}"""
README = "This bundle holds no code.\n"  # Flower wants one file at least


def bundle(server: str, client: str, config: str) -> str:
    """The description of a bundle without code.

    Args:
        server: package whose ``app.server_app`` coordinates.
        client: package whose ``app.client_app`` answers.
        config: the keys of a run's configuration with their defaults, as TOML.
    """
    return BUNDLE.format(version=keys.package_version(), server=server, client=client, config=config)
