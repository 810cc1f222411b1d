"""What is observed during training: CAMs, feature maps and filter patterns, with their measurements and drawings.

Knows nothing about Lightning, threads or schedules.
"""
