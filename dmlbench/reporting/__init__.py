"""Tables, figures and pages from a results folder; imports no torch."""
