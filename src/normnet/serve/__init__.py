"""The local app: CTs in, a queue, results to look at and to edit, in a browser on this machine."""
