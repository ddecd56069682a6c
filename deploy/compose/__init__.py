"""The cluster as containers of one machine: what `docker-compose.yml` mounts and `make compose-…` runs."""
