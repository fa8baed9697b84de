"""Measures how flat the loss is around a trained model: worst case, average case, Hessian, slices."""

from zsharp.sharpness.average_case import AverageCase, average_case
from zsharp.sharpness.hessian import LargestEigenvalue, Trace, hessian_trace, largest_eigenvalue
from zsharp.sharpness.loss_surface import LossSurface
from zsharp.sharpness.measure import MEASURES, measure
from zsharp.sharpness.of_training import measure_training
from zsharp.sharpness.slices import LossSlice, loss_slice
from zsharp.sharpness.worst_case import GroupedWorstCase, WorstCase, m_sharpness, worst_case

__all__ = [
    "MEASURES",
    "AverageCase",
    "GroupedWorstCase",
    "LargestEigenvalue",
    "LossSlice",
    "LossSurface",
    "Trace",
    "WorstCase",
    "average_case",
    "hessian_trace",
    "largest_eigenvalue",
    "loss_slice",
    "m_sharpness",
    "measure",
    "measure_training",
    "worst_case",
]
