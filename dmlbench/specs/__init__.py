"""What a cell is: methods, data sets and protocols, read from YAML into frozen models."""
