"""The baselines: unsupervised methods that the paper compares with (Sec. IV-C).

Each is trained on slices of normal CTs and then scores the slices of a CT.
"""
