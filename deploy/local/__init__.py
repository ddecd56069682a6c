"""The whole cluster as processes of one machine, without Docker: for development, the demo and tests."""
