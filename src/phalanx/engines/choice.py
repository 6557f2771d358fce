"""What is to run a model: engine, device, precision, threads."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from phalanx.engines.backends import EngineName, Precision, runs_bf16


@dataclass(frozen=True, kw_only=True)
class EngineChoice:
    """What runs a model; `auto` and None decide by the machine. `threads` is by default what the CPU quota allows."""

    engine: EngineName = "auto"
    device: str = "auto"
    precision: Literal["auto", "f32", "bf16", "int8"] = "auto"
    threads: int | None = None

    def first_precision(self) -> Precision:
        """Return in which arithmetic to load a graph first.

        That is bfloat16 where the processor has it, unless float32 was asked for. A graph of int8 is so by itself; this
        is then for what of it is not.
        """
        if self.precision in ("auto", "int8"):
            return "bf16" if runs_bf16(self.engine, self.device) else "f32"
        return "bf16" if self.precision == "bf16" else "f32"
