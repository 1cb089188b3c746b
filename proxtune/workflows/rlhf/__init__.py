"""People in the loop: `proxtune rlhf`."""
