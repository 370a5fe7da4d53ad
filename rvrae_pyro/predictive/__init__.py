"""Draws of factors and returns, and the trees that hold them."""
