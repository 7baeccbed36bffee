"""Steps: a stored matrix and the loss."""
