"""Speed: where frozen ends, folding, gradients of kernels, precision, the engine that runs a model."""
