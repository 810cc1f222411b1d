"""What is observed during training: CAMs, feature maps and filter patterns. Each computes, measures and draws its own.

Knows nothing of Lightning, threads or schedules.
"""
