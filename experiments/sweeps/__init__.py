"""What every head is worth: exact ablation sweeps, and first-order estimates beside them."""
