"""Solvers that choose their own steps, for every sample apart."""
