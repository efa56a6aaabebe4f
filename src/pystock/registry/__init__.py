"""The model registry: a gate for models (`judge`), and a champion that is promoted, rolled back, and has a history."""

from pystock.registry.gate import CONDITIONS, MARGIN, Case, Condition, judge
from pystock.registry.promotion import EXPERIMENT, Refused, RegistryError, history, promote, rollback

__all__ = ["CONDITIONS", "EXPERIMENT", "MARGIN", "Case", "Condition", "Refused", "RegistryError"]
__all__ += ["history", "judge", "promote", "rollback"]
