"""Learning rates found rather than guessed: KerasTuner searches over recipes, and the learning-rate range test."""
