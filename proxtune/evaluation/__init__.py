"""Evaluation: metrics and tasks, and the records that measured claims are."""
