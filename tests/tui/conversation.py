"""A short made-up conversation for the screenshot and the snapshots. No model wrote it."""

from __future__ import annotations

from edgeapp.protocol import Memory
from tests.scripted_engine import Hold, LoadStep, Step, done, reply, thoughts

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


THOUGHT = """\
The user wants two sentences. A Mixture-of-Experts model has many experts, of which a router picks a few.
I should say what that costs in memory and what it saves in time.
"""
SHORT_ANSWER = "Many small experts, of which a router picks a few for every token."


def thoughtful_answers() -> list[list[Step]]:
    """Two answers with a thought each."""
    finished: list[Step] = [*thoughts(THOUGHT, answer=SHORT_ANSWER)]
    return [
        [*finished, done(n_tokens=64, decode_tps=88.4, drafts=(40, 33))],
        [*thoughts(THOUGHT), Hold()],
    ]


def answers() -> list[list[Step]]:
    return [
        reply(FIRST_ANSWER),
        [*reply(SECOND_ANSWER)[:1], done(n_tokens=91, decode_tps=121.6)],
    ]
