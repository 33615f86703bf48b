"""Health: the proofs that data, models and services are sound."""
