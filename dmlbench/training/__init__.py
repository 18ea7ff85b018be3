"""Training: what a step is, what an epoch is, and what each phase costs. Knows neither result paths nor MLflow."""
