"""What options of commands can be, where the code that does it is too heavy for ``--help``."""

from typing import Literal, get_args

Execution = Literal["local", "ray"]
EXECUTIONS: tuple[Execution, ...] = get_args(Execution)

# Forms of results that were made elsewhere.
IMPORT_FORMATS = ("auto", "csv", "lm-eval")
