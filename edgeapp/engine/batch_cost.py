"""Learn from measured steps what a batch of n tokens costs against one token. Pure: it is told the times.

A GPU decodes eight tokens in the time of one, two CPU cores need four times as long, and odd sizes can cost
more than the next even one. So each size is measured; those not seen of late lie on a line through the rest.
"""

from __future__ import annotations

N_SIZES = 64
"""Larger batches are on the line."""
PRIOR_SLOPE = 0.4
"""Each further token costs this much of the first: measured 0.4 to 0.5 on two CPU cores."""
_SHORTEST_S = 1e-7
"""No step is shorter; what seems to be is a clock's mistake."""
_PRIOR_WEIGHT = 2.0
_MEMORY = 20.0
"""A size's cost is an average over about this many steps."""
_FADING = 0.98
"""Per step of another size: a size that seemed too dear to use is thought of as the line says, in the end."""
_OUTLIER = 1.25
"""A step this much slower or faster than expected counts as if it were this much: it was disturbed."""


class BatchCost:
    """Call it with a number of tokens; what comes back is in units of the step of one token."""

    def __init__(self) -> None:
        self._cost = [0.0] * (N_SIZES + 1)
        self._weight = [0.0] * (N_SIZES + 1)
        self._slope = PRIOR_SLOPE
        self.token_s = 0.0
        """Duration of a step of one token; 0 before the first step."""

    def __call__(self, n_tokens: int) -> float:
        line = 1 + self._slope * (n_tokens - 1)
        if not 1 < n_tokens <= N_SIZES:
            return line
        weight = self._weight[n_tokens]
        return (weight * self._cost[n_tokens] + _PRIOR_WEIGHT * line) / (weight + _PRIOR_WEIGHT)

    def observe(self, n_tokens: int, step_s: float) -> None:
        """Learn from a step that decoded `n_tokens`, all of them with logits, and took `step_s`."""
        if not 1 <= n_tokens <= N_SIZES or step_s < _SHORTEST_S:
            return
        expected = self(n_tokens)
        if not self.token_s:
            self.token_s = step_s / expected
        surprise = min(max(step_s / (self.token_s * expected), 1 / _OUTLIER), _OUTLIER)
        if n_tokens == 1:
            self._remember_token(surprise)
        else:
            self._remember_batch(n_tokens, surprise * expected)

    def _remember_token(self, surprise: float) -> None:
        self._weight[1] = min(self._weight[1] + 1, _MEMORY)
        self.token_s *= 1 + (surprise - 1) / self._weight[1]

    def _remember_batch(self, n_tokens: int, cost: float) -> None:
        for size in range(2, N_SIZES + 1):
            self._weight[size] *= _FADING
        weight = self._weight[n_tokens] = min(self._weight[n_tokens] + 1, _MEMORY)
        self._cost[n_tokens] += (cost - self._cost[n_tokens]) / weight
        self._slope = self._fitted_slope()

    def _fitted_slope(self) -> float:
        """Return the weighted mean slope of all measured sizes and the prior; never below 0."""
        total, weights = PRIOR_SLOPE * _PRIOR_WEIGHT, _PRIOR_WEIGHT
        for n_tokens in range(2, N_SIZES + 1):
            weight = self._weight[n_tokens]
            total += weight * (self._cost[n_tokens] - 1) / (n_tokens - 1)
            weights += weight
        return max(total / weights, 0.0)
