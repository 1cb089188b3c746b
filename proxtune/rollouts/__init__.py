"""Rollouts: how responses are sampled, and the record that keeps what the sampler knew."""
