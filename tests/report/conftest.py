"""Pages about stores and estimates, and what browsers do with them."""
