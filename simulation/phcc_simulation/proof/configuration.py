"""What was run, for the page over seeds: the study's keys that are not the schema's defaults, and the command."""

from __future__ import annotations

from pathlib import Path
from shlex import quote

import yaml

from phcc_model.config import StudyConfig
from phcc_simulation.proof.schema import Combined


def configuration(study: StudyConfig, found: Combined) -> str:
    """A paragraph of Markdown; of the data's path only the last name is told.

    Args:
        study: of one of the seeds.
        found: names seeds and arms.
    """
    plain = study.model_dump(
        mode="json", exclude_defaults=True, exclude={"seed": True, "evaluation": {"arms"}}
    )
    sets = []
    if study.data.path is not None:
        plain["data"]["path"] = Path(study.data.path).name
        sets.append(f"--set data.path={plain['data']['path']}")
    plain.get("data", {}).get("phantom", {}).pop("seed", None)
    seeds = ",".join(str(one.seed) for one in found.seeds)
    arms = [f"--arm {quote(arm)}" for arm in found.names]
    command = " ".join(["phcc-simulate seeds", study.name, *sets, f"--seeds {seeds}", *arms, "--out FOLDER"])
    text = yaml.safe_dump(plain, sort_keys=False, default_flow_style=None, width=100)
    return (
        f"What differs from the defaults:\n\n```yaml\n{text}```\n\n"
        f"Command, where this study is shipped as `{study.name}`: `{command}`"
    )
