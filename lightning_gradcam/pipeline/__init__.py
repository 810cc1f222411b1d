"""A step's path from its record to archive, sheets and loggers: one thread records and draws, one calls the loggers.

Does not depend on Lightning: plain training loops can use the same recorder.
"""
