"""The one training loop, and the checkpoints it goes on from."""
