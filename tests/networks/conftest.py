"""Networks of every make: their weights, inputs, files, digits, and a choice of weights."""
