"""From a checkpoint to a GGUF file that fits the machine, in one streaming pass, without torch.

source ──► arch (plan) ──► recipe (types) ──► writer (ggml kernels) ──► verify ──► quality
"""
