"""What is watched during training: CAMs, feature maps, filter patterns; each computes, measures and draws its own.

Knows nothing of Lightning, threads or schedules.
"""
