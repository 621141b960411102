"""From a scan to what the network sees, and back: orientation, lungs' crop, spacing, window, edges."""
