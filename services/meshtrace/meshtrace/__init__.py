"""What a Flask service behind Envoy needs so that its requests can be traced."""
