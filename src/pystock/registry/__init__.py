"""The model registry: which version is champion, who decided it, and on what evidence.

`gate` judges a version by four conditions; `promote` and `rollback` move the alias `champion` and log a run for it;
`history` lists those runs. `acceptance` holds a test of a served version, and the webhook receiver that starts it.
The function `gate` hides the module of that name, whose contents `from pystock.registry.gate import …` still finds.
"""

from pystock.registry.gate import MARGIN, Condition
from pystock.registry.promotion import (
    EXPERIMENT,
    TRANSITIONS,
    Busy,
    Overtaken,
    Promotion,
    Refused,
    RegistryError,
    gate,
    history,
    promote,
    rollback,
    set_lifecycle,
)

__all__ = ["EXPERIMENT", "MARGIN", "TRANSITIONS", "Busy", "Condition", "Overtaken", "Promotion", "Refused"]
__all__ += ["RegistryError", "gate", "history", "promote", "rollback", "set_lifecycle"]
