"""The ascent on GPUs: kernels in Triton."""
