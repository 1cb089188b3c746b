"""Models: where they come from, how they are tuned, and the one place that runs them over given tokens."""
