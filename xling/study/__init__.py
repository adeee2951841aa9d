"""The study file: its settings, its cells, and how it is loaded.

No data, model or store is touched here.
"""

from __future__ import annotations

from xling.study.study import LONGEST_STUDY_NAME, Cell, Study, developer_of

__all__ = ["LONGEST_STUDY_NAME", "Cell", "Study", "developer_of"]
