"""What the networks say: the vote for normal tissue, and the probability of disease."""
