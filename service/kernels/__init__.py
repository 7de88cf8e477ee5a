"""Search on a GPU: the catalogue on the device, and the kernels with their torch references."""
