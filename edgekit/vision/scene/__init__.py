"""Generated scenes: cameras that need no camera, with exact truth.

In:   a seed.  Out: frames and boxes (``yard.YardScene``).
Numpy and cv2 only: part of the base install.
"""
