"""What a problem declares: terms, points, parameters, data; what is refused, and why."""
