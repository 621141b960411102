"""From cached normal CTs to an ensemble: slabs, one plain loop, checkpoints."""
