"""Run folders: what they hold, reports and pictures."""
