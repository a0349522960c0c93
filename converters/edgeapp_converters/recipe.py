"""Which GGML type each tensor gets: recipes from models/recipes/*.toml. Format: models/README.md.

Reads recipe files; everything else is arithmetic on names and shapes.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, TypeAlias

import msgspec
from gguf import GGML_QUANT_SIZES, GGUF_DEFAULT_ALIGNMENT, GGMLQuantizationType, LlamaFileType
from msgspec import Meta

from edgeapp import paths
from edgeapp.cleantext import clean_line
from edgeapp.errors import UsageError
from edgeapp_converters import llama_quantize

if TYPE_CHECKING:
    from collections.abc import Sequence

    from edgeapp_converters.plan import ModelPlan, TensorPlan, TypedTensor

TensorClass: TypeAlias = Literal[
    "embedding",
    "output",
    "attention",
    "routed_gate",
    "routed_up",
    "routed_down",
    "shared_expert",
    "dense_ffn",
    "recurrent",
    "default",
]
"""What a recipe tells apart. `recurrent` is state-space, convolution and linear attention."""

_CLASSES: tuple[tuple[TensorClass, re.Pattern[str]], ...] = (
    ("embedding", re.compile(r"^(per_layer_)?token_embd\.")),
    ("output", re.compile(r"^output\.")),
    ("routed_down", re.compile(r"\.ffn_down_exps\.")),
    ("routed_gate", re.compile(r"\.ffn_gate_exps\.")),
    ("routed_up", re.compile(r"\.ffn_(up|gate_up)_exps\.")),
    ("shared_expert", re.compile(r"_shexp\.")),
    ("dense_ffn", re.compile(r"\.ffn_(gate|up|down)\.")),
    ("recurrent", re.compile(r"\.(ssm_|shortconv\.|attn_gate\.)")),
    ("attention", re.compile(r"\.attn_")),
)
_TYPES = {kind.name: kind for kind in GGMLQuantizationType}
_FILE_TYPES = {
    GGMLQuantizationType.Q3_K: LlamaFileType.MOSTLY_Q3_K_M,
    GGMLQuantizationType.IQ4_XS: LlamaFileType.MOSTLY_IQ4_XS,
    GGMLQuantizationType.Q5_K: LlamaFileType.MOSTLY_Q5_K_M,
    GGMLQuantizationType.Q6_K: LlamaFileType.MOSTLY_Q6_K,
    GGMLQuantizationType.Q8_0: LlamaFileType.MOSTLY_Q8_0,
}
_MXFP4 = GGMLQuantizationType.MXFP4


class OuterLayers(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Other types for the first and the last layers."""

    share: Annotated[float, Meta(gt=0, le=0.5)]
    """Of all layers, at each end; less than one layer counts as one."""
    types: dict[TensorClass, str]


class Recipe(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One file of `models/recipes/`: a table of types, or the rule of llama.cpp's own program."""

    name: Annotated[str, Meta(pattern=r"^[a-z0-9][a-z0-9_.-]{0,63}$")]
    title: str
    description: str
    file_type_name: str = msgspec.field(name="file_type")
    """Name in llama.cpp's LlamaFileType: what the file calls itself, and what the rule follows."""
    rule: Literal["table", "llama-quantize"] = "table"
    types: dict[TensorClass, str] = {}
    outer: OuterLayers | None = None

    @property
    def file_type(self) -> int:
        """`general.file_type`; for a table of ours the official type whose experts have the same bits."""
        return int(LlamaFileType[self.file_type_name])

    def __post_init__(self) -> None:
        if self.file_type_name not in LlamaFileType.__members__:
            raise ValueError(f"unknown file_type {self.file_type_name}")
        if self.rule == "llama-quantize" and LlamaFileType[self.file_type_name] not in llama_quantize.KNOWN:
            raise ValueError(f"the rule of llama-quantize is not known for {self.file_type_name}")
        named = [*self.types.values(), *(self.outer.types.values() if self.outer else ())]
        if unknown := [name for name in named if name not in _TYPES]:
            raise ValueError(f"unknown type {unknown[0]}")
        if (self.rule == "table") != ("default" in self.types):
            raise ValueError("a table needs a type for `default`, and a rule needs none")


@dataclass(frozen=True, kw_only=True)
class Fallback:
    """A tensor whose rows do not fit the type that was asked for."""

    name: str
    wanted: str
    got: str


@dataclass(frozen=True, kw_only=True)
class RecipeSummary:
    """What a choice of types amounts to. `types` counts weights by type, the most frequent first."""

    parameters: int
    n_bytes: int
    types: dict[str, int]
    fallbacks: tuple[Fallback, ...]

    @property
    def bits_per_weight(self) -> float:
        return self.n_bytes * 8 / max(self.parameters, 1)


def load_recipe(name_or_path: str) -> Recipe:
    """Return a shipped recipe by name, or the one in a .toml file. Raise `UsageError`."""
    shipped = {path.stem: path for path in sorted((paths.data_dir() / "recipes").glob("*.toml"))}
    path = shipped.get(name_or_path, Path(name_or_path).expanduser())
    if path.suffix != ".toml" or not path.is_file():
        raise UsageError(
            f"There is no recipe {clean_line(name_or_path, max_chars=100)!r}.",
            hint=f"Give a .toml file, or one of {', '.join(shipped)}.",
        )
    try:
        return msgspec.toml.decode(path.read_bytes(), type=Recipe)
    except (msgspec.MsgspecError, OSError) as problem:
        reason = clean_line(str(problem), max_chars=200)
        raise UsageError(
            f"{clean_line(str(path))} is not a recipe: {reason}.", hint="models/README.md has the format."
        ) from problem


def default_recipe(plan: ModelPlan) -> Recipe:
    """Return the recipe that fits the model: 4-bit experts, and what is 4-bit already stays as it is."""
    if any(tensor.fixed_type == _MXFP4 for tensor in plan.tensors):
        return load_recipe("native")
    return load_recipe("moe4" if plan.n_expert else "q4_k_m")


def choose_types(plan: ModelPlan, recipe: Recipe, *, has_imatrix: bool) -> tuple[TypedTensor, ...]:
    """Return every tensor of `plan` with its type. Only llama.cpp's rule looks at `has_imatrix`."""
    if recipe.rule == "llama-quantize":
        file_type = LlamaFileType(recipe.file_type)
        return llama_quantize.choose_types(plan, file_type, has_imatrix=has_imatrix)
    return tuple(typed(tensor, _wanted(tensor, recipe, plan.n_layer)) for tensor in plan.tensors)


def typed(tensor: TensorPlan, wanted: GGMLQuantizationType) -> TypedTensor:
    """Give `tensor` the type `wanted`, the nearest one that fits its rows, or the one that it must have."""
    return llama_quantize.typed(tensor, wanted)


def tensor_class(name: str) -> TensorClass:
    """Return what kind of tensor a GGUF name means."""
    return next((kind for kind, pattern in _CLASSES if pattern.search(name)), "default")


def summary(tensors: Sequence[TypedTensor]) -> RecipeSummary:
    """Return size, bits per weight and fallbacks of a choice of types."""
    counts: Counter[str] = Counter()
    for tensor in tensors:
        counts[tensor.type.name] += tensor.plan.n_elements
    return RecipeSummary(
        parameters=sum(counts.values()),
        n_bytes=sum(map(n_bytes, tensors)),
        types=dict(counts.most_common()),
        fallbacks=tuple(
            Fallback(name=tensor.plan.name, wanted=tensor.wanted.name, got=tensor.type.name)
            for tensor in tensors
            if tensor.type != tensor.wanted
        ),
    )


def n_bytes(tensor: TypedTensor) -> int:
    """Return how many bytes a tensor takes in the file, without padding."""
    block, block_bytes = GGML_QUANT_SIZES[tensor.type]
    return tensor.plan.n_elements // int(block) * int(block_bytes)


def file_bytes(tensor: TypedTensor) -> int:
    """Return how many bytes a tensor takes in the file, with the padding to the next one."""
    padded: int = -(-n_bytes(tensor) // GGUF_DEFAULT_ALIGNMENT) * GGUF_DEFAULT_ALIGNMENT
    return padded


def bytes_per_token(plan: ModelPlan, tensors: Sequence[TypedTensor]) -> int:
    """Return how many bytes of weights one token reads: all but the experts and rows it does not use."""
    total = 0
    for tensor in tensors:
        match tensor_class(tensor.plan.name):
            case "embedding" if any(other.plan.name == "output.weight" for other in tensors):
                total += n_bytes(tensor) // tensor.plan.n_rows
            case "routed_gate" | "routed_up" | "routed_down":
                total += n_bytes(tensor) * plan.n_expert_used // plan.n_expert
            case _:
                total += n_bytes(tensor)
    return total


def file_type_of(tensors: Sequence[TypedTensor]) -> int:
    """Return the `general.file_type` nearest to a choice without a recipe, by its commonest type."""
    counts: Counter[GGMLQuantizationType] = Counter()
    for tensor in tensors:
        counts[tensor.type] += tensor.plan.n_elements
    return int(_FILE_TYPES.get(counts.most_common(1)[0][0], LlamaFileType.MOSTLY_Q4_K_M))


def _wanted(tensor: TensorPlan, recipe: Recipe, n_layer: int) -> GGMLQuantizationType:
    kind, layer = tensor_class(tensor.name), llama_quantize.layer_of(tensor.name)
    types = recipe.types
    if recipe.outer is not None and layer is not None:
        n_outer = max(int(n_layer * recipe.outer.share), 1)
        if layer < n_outer or layer >= n_layer - n_outer:
            types = types | recipe.outer.types
    return _TYPES[types.get(kind, types["default"])]
