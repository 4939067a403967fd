"""Data: sources, splits, how images are listed and decoded, augmentation."""
