"""One epoch of SGD, SAM or ZSharp as one would write it on paper: no library code but the model's."""

import copy
import math

import numpy as np
import torch

from zsharp.data import prepare, split_indices, subset_indices
from zsharp.models import build_model


def digits(max_images, val_fraction=0.1):
    """Normalised float images and labels of the training part, then of the validation part."""
    prepared = prepare("digits")
    images, labels = (np.array(array) for array in prepared.train())
    chosen = subset_indices(labels, max_images, 0)
    parts = split_indices(labels[chosen], val_fraction, 0)
    pixels = images / 255.0
    normalised = (pixels - pixels.mean()) / pixels.std()
    return [
        (torch.tensor(normalised[chosen[part]], dtype=torch.float32), torch.tensor(labels[chosen[part]]))
        for part in parts
    ]


def fresh_model(architecture, seed=0):
    torch.manual_seed(seed)
    return build_model(architecture, (1, 8, 8), 10)


def perturbed(weights, grads, method, rho=0.05, q_p=0.95):
    """Weights at w + e, by the formulas of the papers."""
    if method == "zsharp":
        kept = []
        for g in grads:
            z = ((g - g.mean()) / (g.std(correction=0) + 1e-12)).abs()
            kept.append(torch.where(z > torch.quantile(z.flatten(), q_p), g, torch.zeros_like(g)))
        grads = kept
    norm = math.sqrt(sum(float((g.double() ** 2).sum()) for g in grads))
    return [w + rho * g / norm for w, g in zip(weights, grads, strict=True)]


def slow_epoch(model, images, labels, method, *, batch_size, lrs, momentum, weight_decay, smoothing, seed=0):
    """Trains `model` over one epoch, one rate a step; returns the losses at w and the norms of the gradients."""
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed + 1))
    params = list(model.parameters())
    velocity = [torch.zeros_like(p) for p in params]
    losses, norms = [], []

    def gradients(network, rows):
        logits = network(images[rows])
        log_p = logits.log_softmax(1)
        picked = -log_p[torch.arange(len(rows)), labels[rows]].mean()
        loss = (1 - smoothing) * picked - smoothing * log_p.mean()
        return float(loss.detach()), torch.autograd.grad(loss, list(network.parameters()))

    for step, lr in enumerate(lrs):
        rows = order[step * batch_size : (step + 1) * batch_size]
        loss, grads = gradients(model, rows)
        losses.append(loss)
        norms.append(math.sqrt(sum(float((g**2).sum()) for g in grads)))
        if method != "base":
            twin = copy.deepcopy(model)
            moved = perturbed([p.detach() for p in params], grads, method)
            with torch.no_grad():
                for p, w in zip(twin.parameters(), moved, strict=True):
                    p.copy_(w)
            _, grads = gradients(twin, rows)
        with torch.no_grad():
            for p, v, g in zip(params, velocity, grads, strict=True):
                decayed = g + weight_decay * p if p.ndim > 1 else g
                v.mul_(momentum).add_(decayed)
                p.sub_(lr * v)
    return losses, norms
