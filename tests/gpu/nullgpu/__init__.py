"""A GPU that is not there, under PyTorch's own CUDA code: see `build`, `kernels` and `values`."""
