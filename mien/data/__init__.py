"""What lies between a prepared store and a batch."""
