"""A step's path from its record to archive, sheets and loggers: one thread records and draws, one calls the loggers.

Knows no Trainer and no Lightning: plain training loops can use the same recorder.
"""
