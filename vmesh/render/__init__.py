"""What Envoy gets: a view in, files out, and the static form that the real Envoy validates.

Templates are in files/envoy. What a host does with the files belongs to plugins/module_utils.
"""
