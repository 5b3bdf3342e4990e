"""Other people's networks as denoisers, and our solvers in their pipelines; a library is imported on first use."""
