"""Tools beside the Kubernetes manifests: they render, check and feed them; nothing here runs in a cluster."""
