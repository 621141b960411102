"""Two scans of one patient: what changed, how sure that is, and where."""
