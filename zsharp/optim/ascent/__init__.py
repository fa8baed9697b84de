"""How gradients become a perturbation of the weights."""
