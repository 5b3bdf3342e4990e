"""Solvers made of solvers: each takes any step of the flow, and adds noise."""
