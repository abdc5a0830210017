"""From embeddings to recall: `swan eval`."""

RECALL_AT = (1, 5, 10)  # the K of mR
