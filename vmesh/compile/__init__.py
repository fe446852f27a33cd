"""What the inventory means: one plain view for each proxy and host, or all problems at once.

Pure: no file, network or clock is read here. What Envoy's files look like belongs to `render`.
"""
