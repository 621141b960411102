"""How good masks and votes are: scores of one case, and tables over many cases."""
