"""The results of a scan: what they hold, in which folder they lie, the picture, and the table."""
