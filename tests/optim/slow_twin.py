"""The optimizer family once more, slow and obvious, in float64 numpy, written from the formulas alone."""

import numpy as np


def scores(g, kind):
    if kind == "zscore":
        return np.abs((g - g.mean()) / (g.std() + 1e-30))
    assert kind == "magnitude"
    return np.abs(g)


def keep(grads, q, kind, threshold):
    """np.quantile interpolates linearly; strictly above it is kept; q = 0 switches the filter off."""
    if q == 0 or not grads:
        return [np.ones(g.shape, bool) for g in grads]
    values = [scores(g, kind) for g in grads]
    if threshold == "global":
        cut = np.quantile(np.concatenate([v.ravel() for v in values]), q)
        return [v > cut for v in values]
    return [v > np.quantile(v, q) for v in values]


def num_kept(n, q):
    """Of n components that all differ; 0.29 * 100 is meant as 29."""
    return max(0, n - 1 - int(q * (n - 1) + 1e-6))


def norm(arrays):
    return np.sqrt(sum((a**2).sum() for a in arrays))


def perturb(weights, grads, *, rho, q=0.0, ascent="sam", kind="none", threshold="layer", scale="global",
            one_dim="filter", eta=0.01):  # fmt: skip
    """One ascent: the list of perturbations e."""
    t = [np.abs(w) + eta if ascent == "asam" else np.ones_like(w) for w in weights]
    takes_part = [i for i, w in enumerate(weights) if not (one_dim == "skip" and w.ndim <= 1)]
    is_filtered = [i for i in takes_part if kind != "none" and (weights[i].ndim > 1 or one_dim == "filter")]
    mask = [np.full(w.shape, i in takes_part) for i, w in enumerate(weights)]
    for i, m in zip(is_filtered, keep([grads[i] for i in is_filtered], q, kind, threshold), strict=True):
        mask[i] = m
    kept = [ti * m * g for ti, m, g in zip(t, mask, grads, strict=True)]
    dense = [ti * g * (i in takes_part) for i, (ti, g) in enumerate(zip(t, grads, strict=True))]
    e = []
    for i, w in enumerate(weights):
        if i not in takes_part:
            e.append(np.zeros_like(w))
            continue
        if scale == "global":
            u, length = (kept, norm(kept)) if norm(kept) > 0 else (dense, norm(dense))
        elif kind != "none" and i not in is_filtered:
            u, length = dense, norm(dense)
        else:
            u, length = (kept, norm([kept[i]])) if norm([kept[i]]) > 0 else (dense, norm(dense))
        e.append(rho * t[i] * u[i] / length if length > 0 else np.zeros_like(w))
    return e


def perturb_by(row, weights, grads):
    """As a row of the table of methods says, with its default numbers."""
    rules, numbers = row.rules, row.defaults
    if rules.ascent == "centred_sam":
        grads = [g - g.mean() for g in grads]
    return perturb(
        weights, grads, rho=numbers["rho"], q=numbers.get("q_p", 0.0), ascent=rules.ascent, kind=rules.filter,
        threshold=rules.threshold, scale=rules.norm, one_dim=rules.one_dim,
    )  # fmt: skip


class Descent:
    """SGD with momentum, Adam or AdamW with weight decay, from their papers."""

    def __init__(self, kind, lr, weight_decay=0.0, momentum=0.9):
        self.kind, self.lr, self.decay, self.momentum, self.t = kind, lr, weight_decay, momentum, 0
        self.m, self.v = {}, {}

    def step(self, weights, grads):
        self.t += 1
        new = []
        for i, (w, g) in enumerate(zip(weights, grads, strict=True)):
            if self.kind == "adamw":
                w = w * (1 - self.lr * self.decay)
            else:
                g = g + self.decay * w
            if self.kind == "sgd":
                self.m[i] = g if i not in self.m else self.momentum * self.m[i] + g
                new.append(w - self.lr * self.m[i])
                continue
            self.m[i] = 0.9 * self.m.get(i, 0) + 0.1 * g
            self.v[i] = 0.999 * self.v.get(i, 0) + 0.001 * g * g
            m, v = self.m[i] / (1 - 0.9**self.t), self.v[i] / (1 - 0.999**self.t)
            new.append(w - self.lr * m / (np.sqrt(v) + 1e-8))
        return new
