"""Numbers about a run. Each module is plain functions of arrays; each score states its range and direction."""
