"""A camera, a stream or a video under a network: overlay, speed and delay, snapshots that become cases, recordings."""
