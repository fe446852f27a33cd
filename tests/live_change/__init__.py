"""Every change of inventory/example-change under load, once. See README.md in molecule/change."""
