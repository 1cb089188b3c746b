"""Rewards: anything that gives each response one number."""
