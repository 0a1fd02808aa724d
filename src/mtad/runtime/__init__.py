"""Programs of tensors that run without Python: CUDA graphs, CPU tapes, packed weights."""
