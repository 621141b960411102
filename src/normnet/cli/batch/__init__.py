"""The scans of ``normnet segment`` as a list of jobs: here, in other processes, or in a cluster."""
