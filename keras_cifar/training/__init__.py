"""Training: the loss, the step, the loop, the run that resumes, and who watches it."""
