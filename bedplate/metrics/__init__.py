"""Metrics of ranking, retrieval and calibration."""
