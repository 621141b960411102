"""Which bright tissue each member of the ensemble takes for normal."""
