"""A short made-up conversation for the screenshot and the snapshots. No model wrote it."""

from __future__ import annotations

from edgeapp.protocol import Memory
from tests.scripted_engine import LoadStep, Step, done, reply

LOAD: list[LoadStep] = [Memory(rss_bytes=231 * 2**20)]

FIRST_QUESTION = "What is a Mixture-of-Experts model, in two sentences?"
FIRST_ANSWER = """\
A Mixture-of-Experts model replaces each large feed-forward layer by many small **experts**, \
and a *router* picks a few of them for every token. \
It knows as much as a big model but computes only as much as a small one:

- **total** parameters decide how much memory it needs
- **active** parameters decide how fast it answers
"""

SECOND_QUESTION = "Show me the router in Python."
SECOND_ANSWER = """\
```python
def route(hidden, router_weights, n_expert_used):
    logits = hidden @ router_weights.T
    chosen = logits.argsort()[-n_expert_used:]
    weights = softmax(logits[chosen])
    return chosen, weights
```

The layer's output is the sum of the chosen experts' outputs, each times its weight.
"""


def answers() -> list[list[Step]]:
    return [
        reply(FIRST_ANSWER),
        [*reply(SECOND_ANSWER)[:1], done(n_tokens=91, decode_tps=121.6)],
    ]
