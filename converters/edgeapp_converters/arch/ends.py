"""The tensors at both ends of a network: token embedding, last norm, output. Knows no family."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgeapp_converters.plan import ElementMap

if TYPE_CHECKING:
    from edgeapp_converters.arch.assembly import Assembly
    from edgeapp_converters.arch.config import Config

HEAD = "lm_head.weight"


def ends(
    assembly: Assembly,
    config: Config,
    *,
    model: str = "model",
    norm: str = "norm",
    norm_target: str = "output_norm",
    norm_map: ElementMap = ElementMap.NONE,
    repeat_tied: bool = False,
) -> None:
    """Embedding, norm and output; `model` is what the names of the first two begin with.

    A tied output is left out, because llama.cpp then takes the embedding; `repeat_tied` writes it again
    for architectures whose loader does not.
    """
    embedding = f"{model}.embed_tokens.weight"
    assembly.copy("token_embd.weight", embedding)
    assembly.copy(f"{norm_target}.weight", f"{model}.{norm}.weight", element_map=norm_map)
    if not is_tied(assembly, config):
        assembly.copy("output.weight", HEAD)
        return
    assembly.ignore(name for name in (HEAD,) if name in assembly)
    if repeat_tied:
        assembly.copy("output.weight", embedding)


def is_tied(assembly: Assembly, config: Config) -> bool:
    """Whether embedding and output are one matrix. Old configurations say it only by having no output."""
    said = config.optional_flag("tie_word_embeddings")
    return HEAD not in assembly if said is None else said
