"""The paper's network (§4.1, appendix B) in numpy: inference from trained arrays, no torch.

    H⁰ = embeddings,  Hˡ = ReLU([Hˡ⁻¹ ‖ A Hˡ⁻¹] Wˡᵀ) for l = 1, 2       A: row-normalised transitions
    rgcn:             Hˡ = ReLU([Hˡ⁻¹ ‖ A Hˡ⁻¹ ‖ B Hˡ⁻¹] Wˡᵀ)           B: what went before, likewise
    h_cur = H²[v_t],  h_path = Σ_{i<t} α_i H²[v_i],  h_txt = ReLU(W_t x)
    α = softmax((W_q h_cur)ᵀ H²[v_i] / √d),  h_path = 0 at the first call
    logits = W₂ ReLU(W₁ [h_cur ‖ h_path ‖ h_txt] + b₁) + b₂,            K × (V + 1) of them

The attention has no place for the order of the history: equal agents get equal weights, so h_path is a sum
over agents, each weighted by how often it was called. That is exact, and costs V and not t a call.

An agent not trained on is "unseen": its row of H² is the mean of the known ones, each as often as it was
called in training. It has an embedding but no column.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

Floats = np.ndarray[Any, np.dtype[np.float32]]
Doubles = np.ndarray[Any, np.dtype[np.float64]]
Ints = np.ndarray[Any, np.dtype[np.int64]]

WEIGHTS = (
    "embedding",  # [V, d]
    "layer_1",  # [d, 2d]; rgcn [d, 3d]
    "layer_2",  # [d, 2d]; rgcn [d, 3d]
    "query",  # [d, d]
    "text",  # [d_txt, |x|]
    "hidden_weight",  # [h, 2d + d_txt]
    "hidden_bias",  # [h]
    "output_weight",  # [K (V + 1), h]
    "output_bias",  # [K (V + 1)]
)
FACTS = (
    "transitions",  # [V, V]: A; rgcn [2, V, V]: A and B
    "frequencies",  # [V]: share of the training calls that each agent made
    "context_mean",  # [|x|]
    "context_scale",  # [|x|]: standard deviations
)
RELATIONS = {"graph": 1, "rgcn": 2}  # kinds of networks, and by how many relations their layers mix agents
_ROWS_AT_ONCE = 32  # larger products wake numpy's threads: four times slower on small cores
MOST_DEVIATIONS = 4.0


class Network:
    """Trained arrays, with what does not depend on a call worked out once."""

    def __init__(self, arrays: Mapping[str, Floats], num_steps: int) -> None:
        self.arrays = {name: np.asarray(arrays[name], np.float32) for name in (*WEIGHTS, *FACTS)}
        self.num_steps = num_steps
        self.num_agents: int = len(self.arrays["embedding"])
        size = self.arrays["embedding"].shape[1]
        self.num_dims: int = self.arrays["text"].shape[1]
        hidden = self.arrays["hidden_weight"]
        agents = self.agent_rows()
        self._scores = (agents @ self.arrays["query"].T).astype(np.float64) @ agents.T / np.sqrt(size)
        self._current = agents @ hidden[:, :size].T + self.arrays["hidden_bias"]
        self._history = (agents @ hidden[:, size : 2 * size].T).astype(np.float64)
        self.text_in = self.arrays["text"].T.copy()  # [|x|, d_txt]
        self.text_out = hidden[:, 2 * size :].T.copy()  # [d_txt, h]

    @property
    def width(self) -> int:
        """Columns of a forecast: the agents and END."""
        return self.num_agents + 1

    @property
    def unseen(self) -> int:
        """The row of an agent not trained on."""
        return self.num_agents

    def agent_rows(self) -> Floats:
        """H², and below it the row of an unseen agent; shape [V + 1, d]."""
        rows = self.arrays["embedding"]
        relations = self.arrays["transitions"].reshape(-1, self.num_agents, self.num_agents)
        for name in ("layer_1", "layer_2"):
            joined = np.concatenate([rows, *(relation @ rows for relation in relations)], axis=1)
            rows = np.maximum(joined @ self.arrays[name].T, 0.0)
        return np.concatenate([rows, self.arrays["frequencies"][None] @ rows])

    def forecasts(self, current: Ints, history: Doubles, contexts: Floats) -> Doubles:
        """Conditional forecasts of n calls, shape [n, K, V + 1].

        ``current`` [n]: rows of the agents; ``history`` [n, V + 1]: how often each was called before;
        ``contexts`` [n, |x|], NaN where there is none.
        """
        spans = [slice(at, at + _ROWS_AT_ONCE) for at in range(0, len(current), _ROWS_AT_ONCE)]
        parts = [self._logits(current[span], history[span], contexts[span]) for span in spans]
        return self.rows_of(np.concatenate(parts))

    def rows_of(self, logits: Floats) -> Doubles:
        """The distributions of ``logits`` [n, K (V + 1)], shape [n, K, V + 1]."""
        rows: Doubles = logits.astype(np.float64).reshape(len(logits), self.num_steps, self.width)
        rows -= rows.max(axis=2, keepdims=True)
        np.exp(rows, out=rows)
        rows /= rows.sum(axis=2, keepdims=True)
        return rows

    def standardised(self, contexts: Floats) -> Floats:
        """``contexts`` in standard deviations from the mean of training; see `standardised`."""
        found: Floats = standardised(contexts, self.arrays["context_mean"], self.arrays["context_scale"])
        return found

    def known(self, current: Ints, history: Doubles) -> Floats:
        """W₁ [h_cur ‖ h_path ‖ 0] + b₁: the hidden layer's input but for the vector's part; [n, h]."""
        scores = np.where(history > 0, self._scores[current], -np.inf)
        best = scores.max(axis=1, keepdims=True)
        attention = history * np.exp(scores - np.where(np.isfinite(best), best, 0.0))
        total = attention.sum(axis=1, keepdims=True)
        path = attention @ self._history / np.where(total > 0, total, 1.0)
        found: Floats = self._current[current] + path.astype(np.float32)
        return found

    def _logits(self, current: Ints, history: Doubles, contexts: Floats) -> Floats:
        text = np.maximum(self.standardised(contexts) @ self.text_in, 0.0) @ self.text_out
        hidden = np.maximum(self.known(current, history) + text, 0.0)
        logits: Floats = hidden @ self.arrays["output_weight"].T + self.arrays["output_bias"]
        return logits


def standardised(contexts: Floats, mean: Floats, scale: Floats) -> Floats:
    """(x − mean) / scale within ±4, as what was rare in training would else outweigh all; 0 for NaN."""
    deviations = np.clip((contexts - mean) / scale, -MOST_DEVIATIONS, MOST_DEVIATIONS)
    deviations[np.isnan(deviations)] = 0.0
    found: Floats = deviations
    return found


def history_of(current: Ints, num_rows: int) -> Doubles:
    """How often each of ``num_rows`` agents was called before each call; shape [T, num_rows]."""
    counts = np.zeros((len(current) + 1, num_rows))
    counts[np.arange(1, len(current) + 1), current] = 1.0
    earlier: Doubles = np.cumsum(counts[:-1], axis=0)
    return earlier
