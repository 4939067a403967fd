"""The page, and how it becomes files for a static host."""
