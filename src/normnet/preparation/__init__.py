"""From a scan to what the networks see, and back: orientation, crop, spacing, breath, window."""
