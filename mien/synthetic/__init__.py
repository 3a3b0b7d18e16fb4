"""The 3-D face rig and the faces drawn with it."""
