"""Settings with a name, one YAML file each."""
