"""The packages of a project's fresh environment are those of pystock: hatchling asks this for their list."""

import tomllib
from pathlib import Path

from hatchling.metadata.plugin.interface import MetadataHookInterface


class PystocksPackages(MetadataHookInterface):
    def update(self, metadata: dict) -> None:
        checkout = Path(__file__).resolve().parents[1]
        metadata["dependencies"] = tomllib.loads((checkout / "pyproject.toml").read_text())["project"]["dependencies"]
