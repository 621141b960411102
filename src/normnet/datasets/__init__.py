"""Data sets: where their CTs and masks lie, how a case is read, and the check of a copy.

``layouts`` holds one file per data set; ``registry`` finds them by name, role or folder.
"""
