"""Plumbing that everything else stands on."""
