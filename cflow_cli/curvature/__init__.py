"""The top of the spectrum of D^½ H D^½, followed along a trajectory."""
