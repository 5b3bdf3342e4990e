"""Networks, data, training, metrics, checkpoints, experiments, shards and pictures."""
