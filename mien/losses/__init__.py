"""(Output, Batch, Cue) -> scalar losses; plain functions of tensors."""
