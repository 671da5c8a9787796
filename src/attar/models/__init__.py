"""Networks: by name, as modules, and as functions of one parameter vector."""
