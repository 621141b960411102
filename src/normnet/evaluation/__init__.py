"""How good masks and votes are: metrics of one case, and tables over many."""
