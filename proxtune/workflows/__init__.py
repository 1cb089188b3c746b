"""Workflows: what joins the parts. A config becomes a job, and a job becomes a run."""
