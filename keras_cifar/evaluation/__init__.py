"""Evaluation: logits, test-time augmentation, splits and runs, comparisons between runs."""
