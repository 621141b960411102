"""The unsupervised methods that the paper compares with (Sec. IV-C): train one on normal CTs, score a CT with it."""
