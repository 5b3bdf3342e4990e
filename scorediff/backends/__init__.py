"""Other people's solvers as guests, one file each, imported on first use."""
