"""Ways to run cells: processes on this machine (`local`)."""
