"""The studies that come with this package, by name."""

from __future__ import annotations

import sys
from pathlib import Path

from phcc_model.errors import ConfigError

SHIPPED = (
    Path(__file__).resolve().parents[1] / "configs",  # a checkout, installed editable
    Path(sys.prefix) / "share" / "phcc-ssl-federated" / "configs",  # an installed wheel
)


def find_study(name: str) -> Path:
    """A study file by its path, or a shipped one by its name (``demo``).

    Raises:
        ConfigError: there is neither.
    """
    given = Path(name).expanduser()
    if given.suffix in (".yaml", ".yml"):
        return given
    for folder in SHIPPED:
        if (shipped := folder / f"{name}.yaml").is_file():
            return shipped
    known = sorted({path.stem for folder in SHIPPED if folder.is_dir() for path in folder.glob("*.yaml")})
    raise ConfigError(
        "is neither a study file nor a shipped study",
        where=name,
        remedy=f"Give a .yaml file or one of {', '.join(known)}",
    )
