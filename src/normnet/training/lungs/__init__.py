"""Training of the lung segmenter, from CTs with lung masks."""
