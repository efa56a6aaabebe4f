"""The model registry: which version is champion, who decided it, and on what evidence.

`judge` is the gate for a model; `promote` and `rollback` move the alias `champion`, and `history` lists their records.
"""

from pystock.registry.gate import CONDITIONS, MARGIN, Case, Condition, judge
from pystock.registry.promotion import EXPERIMENT, Refused, RegistryError, history, promote, rollback

__all__ = ["CONDITIONS", "EXPERIMENT", "MARGIN", "Case", "Condition", "Refused", "RegistryError"]
__all__ += ["history", "judge", "promote", "rollback"]
