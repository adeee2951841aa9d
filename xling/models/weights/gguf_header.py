"""Where a GGUF file must end, by its own header."""

from __future__ import annotations

from pathlib import Path
from typing import Any

MAGIC = b"GGUF"


def cut_off(path: Path) -> str:
    """How a GGUF file is cut off, in words; empty if it is not, or is no GGUF file at all.

    Reads the header alone, which takes seconds where the vocabulary is large.
    """
    size = path.stat().st_size
    with path.open("rb") as stream:
        if stream.read(len(MAGIC)) != MAGIC:
            return ""
    try:
        end = _end(path)
    except (IndexError, ValueError):  # what numpy raises on a slice that is too short
        return f"it is cut off: its {size} bytes end within its header"
    return f"it is cut off: it has {size} bytes, its header says {end}" if size < end else ""


def _end(path: Path) -> int:
    """Byte after the last tensor."""
    import gguf

    class Header(gguf.GGUFReader):  # type: ignore[misc, unused-ignore]
        """Reads where the tensors lie, and not the tensors: they may not be there."""

        end = 0

        def _build_tensors(self, start_offs: int, fields: list[Any]) -> None:
            self.end = start_offs
            for field in fields:
                *_, dims, kind, offset = field.parts
                block, bytes_a_block = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType(kind[0])]
                values = 1
                for dim in dims.tolist():
                    values *= dim
                last = start_offs + int(offset[0]) + values * bytes_a_block // block
                self.end = max(self.end, last)

    return int(Header(path).end)
