"""Questions to a stored matrix, against dense linear algebra and known spectra."""
