"""Algorithms: objects with a `step`, which `fit` drives and anybody may call."""
