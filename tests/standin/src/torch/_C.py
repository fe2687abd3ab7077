"""A build for CUDA has this."""

_cuda_getDeviceCount = int
