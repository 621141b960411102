"""One module per data set.

Every module of this folder defines its ``DATASET``; no other file lists the data sets.
"""
