"""Submitting a study: what is refused before a run is made."""

from __future__ import annotations

import pytest

from phcc_model.errors import ConfigError
from phcc_server.instance import Instance
from phcc_server.run_commands import submit
from phcc_server.run_folder import RunFolder


@pytest.mark.parametrize(
    ("overrides", "sites", "why"),
    [
        ([], [], "no hospital is admitted yet. Invite and admit"),
        ([], ["H1"], "H1: is not admitted"),
        (["federation.minimum_sitez=1"], [], "did you mean federation.minimum_sites"),
    ],
)
def test_what_cannot_run_is_refused_with_what_to_do(
    instance: Instance, overrides: list[str], sites: list[str], why: str
) -> None:
    with pytest.raises(ConfigError, match=why):
        submit(instance.folder, "demo", overrides, sites)
    assert RunFolder.all(instance.runs) == ()
