"""Synthetic 'lesions' for healthy lungs (Sec. III-C). Torch tensors in and out, no network."""
