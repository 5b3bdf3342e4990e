"""Exponential integrators, whose linear part is exact: the DDPM, DDIM, DPM-Solver, UniPC, DEIS and SA-Solver families.

Numbers are data: a family states the coefficients of every step of a grid, on the host; `engine` applies them.
"""
