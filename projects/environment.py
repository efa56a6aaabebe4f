"""The packages of a project's fresh environment are those of pystock: hatchling calls this hook for their list.

`extras` in the hook's settings names the optional ones that the project also needs.
"""

import tomllib
from pathlib import Path
from typing import Any

from hatchling.metadata.plugin.interface import MetadataHookInterface


class PystocksPackages(MetadataHookInterface):
    def update(self, metadata: dict[str, Any]) -> None:
        checkout = Path(__file__).resolve().parents[1]
        project = tomllib.loads((checkout / "pyproject.toml").read_text())["project"]
        optional = [project["optional-dependencies"][extra] for extra in self.config.get("extras", [])]
        metadata["dependencies"] = sum(optional, project["dependencies"])
