"""The model: backbones and their weights, heads, how they are put together."""
