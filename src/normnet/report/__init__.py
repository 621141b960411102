"""Pictures of results and of the training material."""
