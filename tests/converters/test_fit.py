"""Types under a byte budget: what is measured, how it is allocated, and how large the budget is."""

from __future__ import annotations

from itertools import pairwise, product
from typing import TYPE_CHECKING

import numpy as np
import pytest
from gguf import GGMLQuantizationType
from gguf.quants import dequantize
from hypothesis import given
from hypothesis import strategies as st

from edgeapp.errors import NotEnoughMemory, UsageError
from edgeapp.placement.plan import COMPUTE_BYTES
from edgeapp_converters import budget, ggml
from edgeapp_converters.fit import Choice, allocate, convex_hull, fit_types, group_of
from edgeapp_converters.imatrix import Imatrix
from edgeapp_converters.metadata import i32s, u32
from edgeapp_converters.plan import ModelPlan, TensorPlan
from edgeapp_converters.recipe import choose_types, file_bytes, load_recipe
from edgeapp_converters.sensitivity import CANDIDATES, NARROW_CANDIDATES, candidates, measure, sampled_rows
from tests.converters.raw_source import RawSource, whole

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import numpy.typing as npt

    from edgeapp_converters.plan import TypedTensor

Q = GGMLQuantizationType
N_EXPERT, ROWS, COLUMNS = 4, 8, 256
EXPERTS = "blk.0.ffn_up_exps.weight"
GIB = 1 << 30


class Checkpoint:
    """A source on disk and the plan for it."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self.source = RawSource(folder)
        self.tensors: list[TensorPlan] = []
        self._random = np.random.default_rng(3)

    def matrix(self, name: str, *, rows: int = ROWS, columns: int = COLUMNS) -> npt.NDArray[np.float32]:
        data = self._random.standard_normal((rows, columns), dtype=np.float32)
        self.source.add(name, data)
        self.tensors.append(TensorPlan(name=name, shape=(rows, columns), parts=(whole(name, rows),)))
        return data

    def experts(self, name: str = EXPERTS) -> npt.NDArray[np.float32]:
        data = self._random.standard_normal((N_EXPERT, ROWS, COLUMNS), dtype=np.float32)
        for expert in range(N_EXPERT):
            self.source.add(f"{name}.{expert}", data[expert])
        parts = [
            whole(f"{name}.{expert}", ROWS, target_row=expert * ROWS, expert=expert)
            for expert in range(N_EXPERT)
        ]
        self.tensors.append(TensorPlan(name=name, shape=data.shape, parts=tuple(parts)))
        return data

    @property
    def plan(self) -> ModelPlan:
        return ModelPlan(
            architecture="llama",
            metadata={},
            tensors=tuple(self.tensors),
            n_layer=1,
            n_expert=N_EXPERT,
            n_expert_used=2,
        )

    def errors(
        self, imatrix: Imatrix | None = None, *, n_threads: int = 1
    ) -> Sequence[dict[GGMLQuantizationType, float]]:
        measured = measure(self.tensors, self.source, imatrix, n_threads=n_threads, report=lambda _: None)
        return [dict(one.errors) for one in measured]

    def fit(self, budget_bytes: int, imatrix: Imatrix | None = None) -> tuple[TypedTensor, ...]:
        return fit_types(
            self.plan,
            self.source,
            imatrix,
            budget_bytes=budget_bytes,
            n_threads=2,
            report=lambda _: None,
        )


@pytest.fixture
def checkpoint(tmp_path: Path) -> Checkpoint:
    return Checkpoint(tmp_path / "checkpoint")


def rounded(
    rows: npt.NDArray[np.float32], kind: GGMLQuantizationType, weights: npt.NDArray[np.float32] | None = None
) -> npt.NDArray[np.float32]:
    """Through the quantiser and back, by gguf's own code."""
    encoded = np.empty(len(rows) * ggml.row_bytes(kind, rows.shape[1]), np.uint8)
    ggml.quantize(kind, np.ascontiguousarray(rows), encoded, weights)
    decoded: npt.NDArray[np.float32] = dequantize(encoded.reshape(len(rows), -1), kind)
    return decoded


# What is measured ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", CANDIDATES)
def test_the_error_is_the_outputs_relative_squared_error(
    kind: GGMLQuantizationType, checkpoint: Checkpoint
) -> None:
    data = checkpoint.matrix("blk.0.attn_q.weight")
    (errors,) = checkpoint.errors()

    expected = np.square(data - rounded(data, kind)).sum() / np.square(data).sum()

    assert errors[kind] == pytest.approx(expected, rel=1e-4)


def test_inputs_that_matter_weigh_more(checkpoint: Checkpoint) -> None:
    data = checkpoint.matrix("blk.0.attn_q.weight")
    weights = np.linspace(0, 4, COLUMNS, dtype=np.float32)
    imatrix = Imatrix(
        entries={"blk.0.attn_q.weight": weights[np.newaxis]},
        counts={"blk.0.attn_q.weight": np.ones(1, np.float32)},
    )
    (errors,) = checkpoint.errors(imatrix)

    noise = np.square(data - rounded(data, Q.Q4_K, weights)) @ weights
    assert errors[Q.Q4_K] == pytest.approx(noise.sum() / (np.square(data) @ weights).sum(), rel=1e-4)


def test_experts_weigh_by_their_share_of_the_tokens(checkpoint: Checkpoint) -> None:
    data = checkpoint.experts()
    weights = np.ones((N_EXPERT, COLUMNS), np.float32)
    imatrix = Imatrix(entries={EXPERTS: weights}, counts={EXPERTS: np.array([0, 9, 0, 0], np.float32)})
    (errors,) = checkpoint.errors(imatrix)

    noise = np.square(data[1] - rounded(data[1], Q.Q4_K, weights[1])).sum()
    assert errors[Q.Q4_K] == pytest.approx(noise / np.square(data[1]).sum(), rel=1e-4)


def test_more_bits_mean_less_error(checkpoint: Checkpoint) -> None:
    checkpoint.experts()
    (errors,) = checkpoint.errors()

    by_bits = [errors[kind] for kind in (Q.Q3_K, Q.Q4_K, Q.Q5_K, Q.Q6_K, Q.Q8_0)]
    assert by_bits == sorted(by_bits, reverse=True)
    assert errors[Q.Q8_0] < 1e-4 < errors[Q.Q3_K] < 0.1


def test_the_measurement_is_the_same_for_any_number_of_threads(checkpoint: Checkpoint) -> None:
    for layer in range(6):
        checkpoint.matrix(f"blk.{layer}.attn_q.weight", rows=64)

    assert checkpoint.errors(n_threads=1) == checkpoint.errors(n_threads=4)


def test_zeros_have_no_error(checkpoint: Checkpoint) -> None:
    checkpoint.source.add("zeros", np.zeros((ROWS, COLUMNS), np.float32))
    checkpoint.tensors.append(
        TensorPlan(name="blk.0.attn_q.weight", shape=(ROWS, COLUMNS), parts=(whole("zeros", ROWS),))
    )

    assert set(checkpoint.errors()[0].values()) == {0.0}


@given(st.integers(1, 5000), st.integers(0, 6000))
def test_sampled_rows_are_apart_and_within_the_part(n_rows: int, n_wanted: int) -> None:
    runs = list(sampled_rows(n_rows, n_wanted))

    ends = [first + n for first, n in runs]
    assert runs[0][0] >= 0
    assert ends[-1] <= n_rows
    assert all(first >= end for (first, _), end in zip(runs[1:], ends[:-1], strict=True))
    assert 1 <= sum(n for _, n in runs) <= max(n_wanted, 1)


def test_only_what_llama_quantize_would_quantise_gets_a_choice() -> None:
    def plan(name: str, *shape: int, fixed: GGMLQuantizationType | None = None) -> TensorPlan:
        return TensorPlan(name=name, shape=shape, parts=(whole("a", 1),), fixed_type=fixed)

    assert candidates(plan("blk.0.attn_q.weight", 4, 512)) == CANDIDATES
    assert candidates(plan("blk.0.attn_q.weight", 4, 96)) == NARROW_CANDIDATES
    assert candidates(plan("blk.0.attn_q.weight", 4, 80)) == ()
    assert candidates(plan("blk.0.ffn_gate_inp.weight", 4, 512)) == ()
    assert candidates(plan("blk.0.attn_norm.weight", 512)) == ()
    assert candidates(plan(EXPERTS, 4, 8, 512, fixed=Q.MXFP4)) == ()


# How it is allocated -------------------------------------------------------------------------------------

KINDS = (Q.Q3_K, Q.Q4_K, Q.Q6_K)
OPTIONS = st.lists(
    st.lists(st.tuples(st.integers(1, 50), st.integers(0, 100)), min_size=3, max_size=3).map(
        lambda pairs: tuple(
            Choice(kind=kind, n_bytes=size, loss=float(loss))
            for kind, (size, loss) in zip(KINDS, pairs, strict=True)
        )
    ),
    min_size=1,
    max_size=4,
)


def _totals(options: Sequence[Sequence[Choice]], kinds: Sequence[GGMLQuantizationType]) -> tuple[int, float]:
    taken = [next(one for one in each if one.kind == kind) for each, kind in zip(options, kinds, strict=True)]
    return sum(one.n_bytes for one in taken), sum(one.loss for one in taken)


@given(OPTIONS, st.integers(0, 200))
def test_allocation_is_as_good_as_any_that_needs_one_step_less(
    options: list[tuple[Choice, ...]], spare_bytes: int
) -> None:
    hulls = [convex_hull(each) for each in options]
    budget_bytes = sum(hull[0].n_bytes for hull in hulls) + spare_bytes
    largest_step = max((b.n_bytes - a.n_bytes for hull in hulls for a, b in pairwise(hull)), default=0)

    n_bytes, loss = _totals(options, allocate(options, budget_bytes))

    every = (_totals(options, kinds) for kinds in product(KINDS, repeat=len(options)))
    best = min((other for size, other in every if size <= budget_bytes - largest_step), default=np.inf)
    assert n_bytes <= budget_bytes
    assert loss <= best + 1e-9


@given(OPTIONS)
def test_a_hull_gains_less_and_less(options: list[tuple[Choice, ...]]) -> None:
    for each in options:
        hull = convex_hull(each)
        gains = [(a.loss - b.loss) / (b.n_bytes - a.n_bytes) for a, b in pairwise(hull)]

        assert hull[0].n_bytes == min(one.n_bytes for one in each)
        assert hull[-1].loss == min(one.loss for one in each)
        assert gains == sorted(gains, reverse=True)


def test_a_fitted_file_fills_its_budget_and_never_exceeds_it(checkpoint: Checkpoint) -> None:
    checkpoint.experts()
    checkpoint.matrix("blk.0.ffn_gate_inp.weight", rows=N_EXPERT)
    for layer in range(4):
        checkpoint.matrix(f"blk.{layer}.attn_q.weight", rows=32)
    smallest, largest = _extremes(checkpoint.plan)

    for budget_bytes in range(smallest, largest + 4000, 997):
        n_bytes = sum(map(file_bytes, checkpoint.fit(budget_bytes)))
        assert n_bytes <= budget_bytes
        assert n_bytes > min(budget_bytes, largest) - 32 * 80


def _extremes(plan: ModelPlan) -> tuple[int, int]:
    """File bytes with all that can be chosen in Q3_K, and in Q8_0."""
    usual = choose_types(plan, load_recipe("q8_0"), has_imatrix=False)
    fixed = sum(file_bytes(one) for one in usual if not candidates(one.plan))
    n_rows = sum(one.n_rows for one in plan.tensors if candidates(one))
    smallest, largest = (fixed + n_rows * ggml.row_bytes(kind, COLUMNS) for kind in (Q.Q3_K, Q.Q8_0))
    return smallest, largest


def test_a_budget_that_is_too_small_is_refused_with_the_numbers(checkpoint: Checkpoint) -> None:
    checkpoint.experts()
    smallest, _ = _extremes(checkpoint.plan)

    with pytest.raises(NotEnoughMemory) as caught:
        checkpoint.fit(smallest - 1)

    assert (caught.value.needed_bytes, caught.value.free_bytes) == (smallest, smallest - 1)


def test_what_cannot_be_chosen_is_as_in_q8_0(checkpoint: Checkpoint) -> None:
    checkpoint.matrix("blk.0.attn_q.weight", columns=80)
    checkpoint.matrix("blk.0.ffn_gate_inp.weight")
    checkpoint.matrix("blk.0.attn_v.weight", columns=96)

    types = {one.plan.name: one.type for one in checkpoint.fit(10**6)}

    assert types == {
        "blk.0.attn_q.weight": Q.F16,
        "blk.0.ffn_gate_inp.weight": Q.F32,
        "blk.0.attn_v.weight": Q.Q8_0,
    }


def test_experts_that_few_tokens_use_lose_their_bits_first(checkpoint: Checkpoint) -> None:
    """Outliers in an expert that is never used must not buy bits for the whole tensor."""
    used, unused = checkpoint.experts(), checkpoint.experts("blk.1.ffn_up_exps.weight")
    assert used.shape == unused.shape
    columns = np.ones((N_EXPERT, COLUMNS), np.float32)
    columns[1:, ::32] = 900
    names = (EXPERTS, "blk.1.ffn_up_exps.weight")
    counts = {names[0]: np.array([0, 1, 1, 1], np.float32), names[1]: np.array([1, 0, 0, 0], np.float32)}
    errors = checkpoint.errors(Imatrix(entries=dict.fromkeys(names, columns), counts=counts))

    assert errors[0][Q.Q4_K] < errors[1][Q.Q4_K]


def test_an_embedding_that_is_the_output_too_gets_more_bits(checkpoint: Checkpoint) -> None:
    checkpoint.matrix("token_embd.weight", rows=64)
    checkpoint.matrix("output.weight", rows=64)
    tied = Checkpoint(checkpoint.source.folder / "tied")
    tied.matrix("token_embd.weight", rows=64)
    tied.matrix("blk.0.attn_output.weight", rows=64)
    one_step = 64 * (ggml.row_bytes(Q.Q8_0, COLUMNS) + ggml.row_bytes(Q.Q3_K, COLUMNS))

    assert file_bytes(checkpoint.fit(one_step)[0]) < file_bytes(tied.fit(one_step)[0])


@pytest.mark.parametrize(
    ("name", "group"),
    [
        ("token_embd.weight", "embedding"),
        ("output.weight", "output"),
        ("blk.0.attn_q.weight", "query_key"),
        ("blk.0.attn_v.weight", "value"),
        ("blk.0.attn_kv_b.weight", "value"),
        ("blk.0.attn_output.weight", "attention_output"),
        ("blk.0.ffn_gate_exps.weight", "gate_up"),
        ("blk.0.ffn_up_shexp.weight", "gate_up"),
        ("blk.0.ffn_down.weight", "down"),
        ("blk.0.ssm_out.weight", "other"),
    ],
)
def test_tensors_weigh_by_their_place_in_the_layer(name: str, group: str) -> None:
    assert group_of(name) == group


# How large the budget is ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "n_bytes"),
    [
        ("8G", 8 * GIB),
        ("7.5GiB", 15 * GIB // 2),
        ("512M", 512 << 20),
        ("1 tb", 1 << 40),
        ("1000", 1000),
        ("0", 0),
    ],
)
def test_sizes_are_read(text: str, n_bytes: int) -> None:
    assert budget.parse_size(text) == n_bytes


@pytest.mark.parametrize("text", ["", "8X", "-1G", "G", "1e9", "8 G B", "nan"])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="is not a size"):
        budget.parse_size(text)


def big_model() -> ModelPlan:
    """22 GiB of experts and 1 GiB of the rest at 8 bits; 1 GiB of cache for 8192 tokens."""
    shapes = {"output.weight": (65536, 4096), "token_embd.weight": (65536, 4096)}
    shapes |= {f"blk.{layer}.attn_q.weight": (4096, 4096) for layer in range(32)}
    experts = {f"blk.{layer}.ffn_up_exps.weight": (64, 4096, 2048) for layer in range(32)}
    keys = {
        "context_length": u32(131072),
        "embedding_length": u32(4096),
        "attention.head_count": u32(32),
        "attention.head_count_kv": u32(8),
    }
    return ModelPlan(
        architecture="llama",
        metadata={f"llama.{key}": value for key, value in keys.items()},
        tensors=tuple(
            TensorPlan(name=name, shape=shape, parts=(whole("a", 1),))
            for name, shape in (shapes | experts).items()
        ),
        n_layer=32,
        n_expert=64,
        n_expert_used=8,
    )


def test_the_cache_is_counted_for_the_default_context() -> None:
    assert budget.cache_bytes(big_model()) == 32 * 8 * 256 * 2 * 8192


def test_layers_without_attention_keep_no_cache() -> None:
    plan = big_model()
    hybrid = plan.metadata | {"llama.attention.head_count_kv": i32s([8, 0] * 16)}

    halved = ModelPlan(architecture="llama", metadata=hybrid, tensors=plan.tensors, n_layer=32)

    assert budget.cache_bytes(halved) * 2 == budget.cache_bytes(plan)


def test_a_large_gpu_gets_everything() -> None:
    planned = budget.for_machine(big_model(), max_vram="24G", max_ram="8G")

    assert planned.file_bytes == 23 * GIB - COMPUTE_BYTES
    assert "Everything fits on the GPU" in planned.reason


def test_a_small_gpu_leaves_the_experts_to_host_memory() -> None:
    plan = big_model()
    planned = budget.for_machine(plan, max_vram="4G", max_ram="16G")

    dense = sum(
        file_bytes(one)
        for one in choose_types(plan, load_recipe("q8_0"), has_imatrix=False)
        if "exps" not in one.plan.name
    )
    assert "Experts go to host memory" in planned.reason
    assert planned.file_bytes == pytest.approx(16 * GIB - COMPUTE_BYTES + dense * 3.4375 / 8.5, rel=1e-6)


def test_a_gpu_that_is_too_small_is_left_alone() -> None:
    planned = budget.for_machine(big_model(), max_vram="1G", max_ram="16G")

    assert planned.file_bytes == 15 * GIB - COMPUTE_BYTES
    assert "Everything goes to host memory" in planned.reason


def test_without_words_the_machine_decides() -> None:
    assert budget.for_machine(big_model()).reason
