"""Datasets: the catalogue, one file per dataset family, and what turns images into batches."""
