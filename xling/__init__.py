"""Cross-lingual fine-tuning of language models, measured and tracked."""

from __future__ import annotations

from xling.serving.old_adapters import find_old_modules

find_old_modules()
