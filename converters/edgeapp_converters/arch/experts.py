"""Feed-forward blocks in the layouts in which checkpoints hold them. Knows no family.

Routed experts come as one matrix per expert (`experts.7.gate_proj.weight`) or, as transformers 5 holds them
in memory, as two stacks: `experts.gate_up_proj` [n_expert, 2 n_ff, n_embd], gate rows first, and
`experts.down_proj` [n_expert, n_embd, n_ff].
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgeapp.errors import InvalidCheckpoint

if TYPE_CHECKING:
    from edgeapp_converters.arch.assembly import Assembly

LLAMA_NAMES = ("gate_proj", "up_proj", "down_proj")
META_NAMES = ("w1", "w3", "w2")
"""Gate, up and down, as Meta's first LLaMA code called them."""


def dense(
    assembly: Assembly,
    block: str,
    source: str,
    *,
    names: tuple[str, str, str] = LLAMA_NAMES,
    suffix: str = "",
) -> None:
    """A gated feed-forward block; `suffix` is `_shexp` for a shared expert."""
    for kind, name in zip(("gate", "up", "down"), names, strict=True):
        assembly.copy(f"{block}.ffn_{kind}{suffix}.weight", f"{source}.{name}.weight")


def routed(
    assembly: Assembly, block: str, source: str, n_expert: int, *, names: tuple[str, str, str] = LLAMA_NAMES
) -> None:
    """All experts of a layer, `source` being `model.layers.N.mlp.experts`, in either layout."""
    if f"{source}.gate_up_proj" in assembly:
        stacked(assembly, block, f"{source}.gate_up_proj", f"{source}.down_proj", n_expert)
        return
    for kind, name in zip(("gate", "up", "down"), names, strict=True):
        sources = [f"{source}.{expert}.{name}.weight" for expert in range(n_expert)]
        assembly.stack(f"{block}.ffn_{kind}_exps.weight", sources)


def stacked(assembly: Assembly, block: str, gate_up: str, down: str, n_expert: int) -> None:
    """Experts in two stacks, gate rows before up rows."""
    n_stacked, n_rows, _ = assembly.require_dimensions(gate_up, 3)
    if n_stacked != n_expert or n_rows % 2:
        raise InvalidCheckpoint(
            f"{gate_up} has shape {list(assembly.shape(gate_up))}, but {n_expert} experts with as many gate "
            "as up rows are needed."
        )
    assembly.unstack(f"{block}.ffn_gate_exps.weight", gate_up, 0, n_rows // 2)
    assembly.unstack(f"{block}.ffn_up_exps.weight", gate_up, n_rows // 2, n_rows // 2)
    assembly.unstack(f"{block}.ffn_down_exps.weight", down, 0, assembly.require_dimensions(down, 3)[1])
