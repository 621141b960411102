"""The networks, their losses, and how weights are stored."""
