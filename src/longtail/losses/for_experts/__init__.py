"""What experts are told about each other: diversity, and distillation among them; not their network."""
