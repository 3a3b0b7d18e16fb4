"""AUDetNet: action units from an embedding in two parts, defined by a cfg file."""
