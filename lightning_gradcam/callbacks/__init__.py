"""The Lightning callbacks: their options, hooks, ranks and resuming.

The only folder that depends on Lightning; computes, draws and writes nothing itself.
"""
