"""Checks in minutes that results of a device are correct and repeatable, and measures its speed and memory."""
