"""Datasets: spine, labels, negatives, sampling and splits, streamed as request-grouped batches."""
