"""Rows and products by automatic differentiation, against closed forms and each other."""
