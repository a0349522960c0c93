"""Find the placement that answers a typical request soonest within the budgets. Pure.

Every division of the model is tried with every micro-batch, load mode and allowed KV type. What fits a small
budget fits a larger one too, so more memory never makes the best one slower.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgeapp.placement.problem import HOST_UBATCH
from edgeapp.placement.setting import Need, Setting, make_setting, n_prompt, prefill_prices_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from edgeapp.placement.problem import Problem
    from edgeapp.placement.speed import Parts
    from edgeapp.placement.split import Split
    from edgeapp.placement.wishes import KvType

__all__ = ["Candidate", "Need", "Setting", "best", "best_with", "make_setting", "n_prompt"]

LONG_PROMPT = 8192
"""Between placements that are equally fast for the workload, the faster one for such a prompt wins."""
_QUALITY_PRICES: dict[KvType, float] = {"f16": 1.0, "q8_0": 1.1}
"""A smaller KV type has to save this much time to be chosen: a tenth, …"""
_LEAST_QUALITY_PRICE = 1.5
"""… and below 8 bits, where answers get visibly worse, half."""


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A placement that fits."""

    setting: Setting
    split: Split
    need: Need

    @property
    def decode(self) -> Parts:
        """Seconds of one token, in the middle of the workload's answer."""
        return self.setting.cost(self.setting.decode, self.split, self.need)

    @property
    def prefill(self) -> Parts:
        """Seconds of the workload's prompt."""
        setting = self.setting
        prices = setting.prefill if self.split.uses_device else setting.host_prefill
        return setting.cost(prices, self.split, self.need)

    @property
    def request_s(self) -> float:
        return self.setting.request_parts(self.split, self.need).total_s

    @property
    def paged_bytes(self) -> int:
        return self.setting.paged_bytes(self.need)


def best(problem: Problem) -> Candidate | None:
    """Return the fastest placement that fits, None when nothing fits."""
    return min(_best_of_each_setting(problem), key=_rank, default=None)


def best_with(setting: Setting, ways: Sequence[Split]) -> Candidate | None:
    """Return the fastest of `ways` that fits with `setting`; among equals the first.

    Where the GPU does everything faster, each way is slower than the one before it but for what changing
    sides costs. Once the rest alone costs more than the best, no later one on the GPU is looked at.
    """
    found, least_s, is_passed = None, 0.0, False
    for split in ways:
        if split.uses_device and (is_passed or setting.is_hopeless(split)):
            continue
        need = setting.need(split)
        if not setting.fits(split, need):
            continue
        spent = setting.request_parts(split, need)
        if found is None or spent.total_s < least_s:
            found, least_s = Candidate(setting=setting, split=split, need=need), spent.total_s
        rest_s = spent.total_s - spent.stops - spent.launching
        is_passed = setting.device_is_faster and rest_s >= least_s
    return found


def _best_of_each_setting(problem: Problem) -> Iterator[Candidate]:
    ways = problem.splits()
    with_device = [split for split in ways if split.uses_device]
    for kv_type in problem.kv_types():
        for n_ubatch in problem.n_ubatches():
            tried = ways if n_ubatch <= HOST_UBATCH or problem.wishes.n_ubatch else with_device
            for load_mode in problem.load_modes():
                setting = make_setting(problem, n_ubatch=n_ubatch, kv_type=kv_type, load_mode=load_mode)
                if candidate := best_with(setting, tried):
                    yield candidate


def _rank(candidate: Candidate) -> tuple[float, float]:
    setting = candidate.setting
    price = _QUALITY_PRICES.get(setting.kv_type, _LEAST_QUALITY_PRICE)
    long = prefill_prices_of(
        setting.problem,
        LONG_PROMPT,
        n_ubatch=setting.n_ubatch,
        load_mode=setting.load_mode,
        uses_device=candidate.split.uses_device,
    )
    long_s = setting.cost(long, candidate.split, candidate.need).total_s
    return candidate.request_s * price, long_s
