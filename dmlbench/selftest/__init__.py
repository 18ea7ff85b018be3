"""Shows in minutes whether a device computes, repeats, resumes, loads, times and remembers as results need it."""
