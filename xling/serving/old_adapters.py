"""What adapters logged before version 0.2 import: old names, for new modules and functions.

MLflow puts an adapter's logged code on ``sys.path``, but in a process that has imported `xling`
that code finds this package under the name. Drop this module, and `xling/__init__.py`'s import of
it, with version 0.3.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

MODULES = {
    "xling.sealed": "xling.files.checksums",
    "xling.serving_limits": "xling.serving.limits",
}
# The first old module that an old adapter imports brings these.
FUNCTIONS = {
    ("xling.models", "open_base"): "get_base",
    ("xling.files.checksums", "files_sha256"): "hash_folder",
}


class OldModules(MetaPathFinder, Loader):
    """Finds the old modules, where nothing else does, and fills them from the new ones."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Find an old module; None: it is not one."""
        return ModuleSpec(fullname, self) if fullname in MODULES else None

    def exec_module(self, module: ModuleType) -> None:
        """Give an old module the names of the new one."""
        for (owner, old), name in FUNCTIONS.items():
            holder = import_module(owner)
            setattr(holder, old, getattr(holder, name))
        new = vars(import_module(MODULES[module.__name__]))
        vars(module).update({name: each for name, each in new.items() if name[:2] != "__"})


def find_old_modules() -> None:
    """Let this process import what old adapters do."""
    sys.meta_path.append(OldModules())
