"""What every other package may use: problems, paths, progress, formats of texts.

Nothing here knows the model, Envoy or Ansible. A function that needs one of these belongs above.
"""
