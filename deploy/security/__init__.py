"""What looks for known faults in packages, for secrets in files, and lists the parts of each service."""
