"""What a training step costs: which steps are measured, and how."""
