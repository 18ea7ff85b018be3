"""Statistics over seeds, and what a method costs: reads results, never the trainer."""
